"""The report's comparison of methods: the same prompts side by side, and their curves in one."""

import base64
import math
from collections.abc import Sequence
from html import escape
from statistics import median

from rich.progress import track

from .assets import Asset
from .curves import draw_methods
from .report_pictures import Look, log_curve, strip, turning
from .rows import AssetRow

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
    """Each method's logged gradient norm, the median over its assets, in one diagram."""
    drawn: dict[str, list[tuple[float, float]]] = {}
    for method in dict.fromkeys(asset.method for asset in assets):
        values: dict[float, list[float]] = {}
        for asset in assets:
            if asset.method == method:
                for step, value in log_curve(asset):
                    values.setdefault(step, []).append(value)
        if len(values) > 1:
            found = sorted(values.items())
            drawn[method] = [(step, math.exp(median(logs))) for step, logs in found]
    if not drawn:
        return "<p>No curves were logged."
    svg = base64.b64encode(draw_methods(drawn).encode()).decode()
    about = f"gradient norms of {', '.join(drawn)}"
    return f'<img id="curves" alt="{escape(about)}" src="data:image/svg+xml;base64,{svg}">'
