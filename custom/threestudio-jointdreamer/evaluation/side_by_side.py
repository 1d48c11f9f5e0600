"""The report's comparison of methods: the same prompts side by side, and their curves in one."""

from collections.abc import Sequence
from html import escape
from statistics import median

from rich.progress import track

from .assets import Asset
from .report_pictures import Look, log_curve, polyline, strip, turning
from .rows import AssetRow

COLOURS = (  # one for each method of the benchmark, and one to spare
    *("#3b6ea5", "#c8553d", "#5f8f4e", "#8c6bb1", "#b58a2a"),
    *("#3f8f8f", "#b0507f", "#5b5b58", "#7a4a2b", "#a3b82f"),
    *("#111110", "#e0a3b4"),
)
CHART = (640, 240)  # pixels
Pair = tuple[Asset, AssetRow]


def comparable(assets: Sequence[Asset]) -> bool:
    """Whether a prompt is there under two methods."""
    methods: dict[str, set[str]] = {}
    for asset in assets:
        methods.setdefault(asset.prompt, set()).add(asset.method)
    return any(len(found) > 1 for found in methods.values())


def contact_sheets(pairs: Sequence[Pair], look: Look) -> str:
    """A table for each seed: a row for each prompt, a column for each method."""
    methods = list(dict.fromkeys(asset.method for asset, _ in pairs))
    prompts = list(dict.fromkeys(asset.prompt for asset, _ in pairs))
    cells = {
        (asset.seed, asset.prompt, asset.method): _cell(asset, row, look)
        for asset, row in track(pairs, "contact sheets")
    }
    tables = []
    for seed in sorted({asset.seed for asset, _ in pairs}, key=lambda seed: (seed is None, seed)):
        heads = "".join(f'<th scope="col">{escape(method)}' for method in methods)
        rows = "".join(
            f'<tr><th scope="row">{escape(prompt)}'
            + "".join(cells.get((seed, prompt, method), "<td>–") for method in methods)
            for prompt in prompts
        )
        name = "all" if seed is None else f"seed {seed}"
        tables.append(
            f"<details {'' if tables else 'open'}><summary>{name}</summary>"
            f'<table class="sheets"><thead><tr><th>prompt{heads}<tbody>{rows}</table></details>'
        )
    return "".join(tables)


def _cell(asset: Asset, row: AssetRow, look: Look) -> str:
    about = escape(f"{asset.prompt}, {asset.method}")
    images = "".join(
        f'<img loading="lazy" alt="{about}, {what}" src="{picture(asset, look)}">'
        for what, picture in (("all round", strip), ("turning", turning))
    )
    said, bad = verdict_in_words(row)
    mark = ' class="bad"' if bad else ""
    return f"<td><div>{images}</div><span{mark}>{said}</span> CLIP {row.clip_score:.1f}"


def verdict_in_words(row: AssetRow) -> tuple[str, bool]:
    """What the Janus meter says of an asset, and whether that is a failure."""
    if row.janus is None:
        return "", False
    if row.faceless:
        return "no face", True
    if row.janus and row.faces == 1:
        return "1 face drawn out", True
    return ("1 face", False) if row.faces == 1 else (f"{row.faces} faces", True)


def curves_of_methods(assets: Sequence[Asset]) -> str:
    """Each method's logged gradient norm, the median over its assets, in one chart."""
    drawn: dict[str, list[tuple[float, float]]] = {}
    for method in dict.fromkeys(asset.method for asset in assets):
        values: dict[float, list[float]] = {}
        for asset in assets:
            if asset.method == method:
                for step, value in log_curve(asset):
                    values.setdefault(step, []).append(value)
        if len(values) > 1:
            drawn[method] = [(step, median(found)) for step, found in sorted(values.items())]
    if not drawn:
        return "<p>No curves were logged."
    width, height = CHART
    lines, legend = [], []
    for number, (method, points) in enumerate(
        zip(drawn, polyline(list(drawn.values()), CHART), strict=True)
    ):
        colour = COLOURS[number % len(COLOURS)]
        dash = ' stroke-dasharray="5 3"' if number >= len(COLOURS) else ""
        lines.append(f'<polyline style="stroke:{colour}"{dash} points="{points}"/>')
        legend.append(f'<li style="color:{colour}">{escape(method)}')
    return (
        f'<svg id="curves" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="gradient norms">{"".join(lines)}</svg>'
        f'<ul class="legend">{"".join(legend)}</ul>'
    )
