"""What benchmarks/tradeoff.py has measured: a picture, points with intervals, widths of ranges."""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from threestudio_jointdreamer.files import replacing

from jointdreamer.csv_table import write_csv
from jointdreamer.evaluation.rows import AssetRow, by_method

Row = dict[str, Any]
KNOWN = ("bear", "cat", "elephant", "frog")  # to the weaker prior
COLUMNS = {  # priors and prompts
    "shipped": "the shipped multi-view prior",
    "weak, inside": "a weaker one, species that it knows",
    "weak, outside": "a weaker one, species that it does not",
}
LIMIT, ENOUGH = 12.5, 90.0  # % of assets with another number of faces than one, % R-Precision
MIDDLE, RESAMPLES = 2.0, 2000
LABELS = {
    "sds": "SDS",
    "weighted-sum": "weighted sum",
    "jsd-multiview": "JSD, multi-view",
    "jsd-sum": "JSD, sum of three",
    "jsd-classifier": "JSD, classifier",
    "jsd-translation": "JSD, translation",
    "pull": "JSD's pull alone",
    "drift": "JSD's drift alone",
}
GOALS = ("failed_rate", "r_precision")
MEASURED = ("janus_rate", "faceless_rate", "failed_rate", "r_precision", "clip_score")


def read_assets(path: Path) -> dict[tuple[str, str, int], Row]:
    """The published rows by method, prompt and seed; numbers as numbers."""

    def number(text: str) -> Any:
        try:
            return float(text) if "." in text else int(text)
        except ValueError:
            return text or None

    with open(path, encoding="utf-8", newline="") as file:
        rows = [{k: number(v) for k, v in row.items()} for row in csv.DictReader(file)]
    return {(row["method"], row["prompt"], row["seed"]): row for row in rows}


def point_of(method: str) -> tuple[str, float, float, str]:
    """Name, weight, scale and prior of 'jsd-multiview+w0.1+s2+weak'."""
    name, weight, scale, prior = re.fullmatch(r"(.+)\+w(.+)\+s(.+)\+(\w+)", method).groups()
    return name, float(weight), float(scale), prior


def column_of(row: Row) -> str:
    prior = point_of(row["method"])[3]
    known = any(word in row["prompt"].split() for word in KNOWN)
    return prior if prior == "shipped" else f"{prior}, {'inside' if known else 'outside'}"


def failed(row: Row) -> bool:
    """It has another number of faces than one."""
    return bool(row["janus"] or row["faceless"])


def measured(rows: Sequence[Row]) -> Row:
    """Means and rates of assets, each with the ends of its 95 % interval, and their FID.

    FID is that of a call's assets of a method on all its prompts; of assets of several calls it is
    not known.
    """
    nothing = dict.fromkeys(field.name for field in fields(AssetRow))
    own = [nothing | {k: v for k, v in row.items() if k in nothing} for row in rows]
    either = [row | {"janus": failed(row)} for row in own]
    one, both = (asdict(by_method([AssetRow(**row) for row in r], {})[0]) for r in (own, either))
    values = one | {key.replace("janus", "failed"): value for key, value in both.items()}
    wanted = [f"{name}{end}" for name in MEASURED for end in ("", "_low", "_high")]
    found = {key: None if values[key] is None else round(values[key], 2) for key in wanted}
    fids = {row.get("fid") for row in rows}
    fid = fids.pop() if len(fids) == 1 else None
    return {"prompts": one["prompts"], "runs": len(rows), **found, "fid": fid}


def points(rows: Sequence[Row]) -> dict[tuple[str, str, float, float], list[Row]]:
    """Assets by column, method, scale and weight."""
    found: dict[tuple[str, str, float, float], list[Row]] = {}
    for row in rows:
        name, weight, scale, _ = point_of(row["method"])
        found.setdefault((column_of(row), name, scale, weight), []).append(row)
    return dict(sorted(found.items()))


def width(series: Mapping[float, Sequence[Row]]) -> tuple[float, float, float]:
    """Over how many decades of the weight both goals hold, and the interval.

    Rates and means are interpolated in the weight's logarithm; the interval is a percentile
    bootstrap over the prompts that all weights have.
    """
    weights = sorted(series)
    prompts = sorted(set.intersection(*({r["prompt"] for r in series[w]} for w in weights)))

    def table(value: Callable[[Row], float]) -> Float[np.ndarray, "weights prompts"]:
        def mean(weight: float, prompt: str) -> float:
            return np.mean([value(r) for r in series[weight] if r["prompt"] == prompt])

        return np.array([[mean(weight, prompt) for prompt in prompts] for weight in weights])

    faces, text = table(lambda r: 100 * failed(r)), table(lambda r: r["r_precision"])
    x = np.log10(weights)
    fine = np.linspace(x[0], x[-1], 201)

    def decades(drawn: np.ndarray) -> float:
        few = np.interp(fine, x, faces[:, drawn].mean(1)) <= LIMIT
        true = np.interp(fine, x, text[:, drawn].mean(1)) >= ENOUGH
        return (few & true).mean() * (x[-1] - x[0])

    draws = np.random.default_rng(0).integers(len(prompts), size=(RESAMPLES, len(prompts)))
    low, high = np.quantile([decades(drawn) for drawn in draws], [0.025, 0.975])
    return decades(np.arange(len(prompts))), low, high


def draw(path: Path, picture: Path) -> str:
    """Writes the picture, and beside the assets a CSV of points; returns a table as Markdown.

    Raises:
        ValueError, FileNotFoundError: there are no assets.
    """
    found = points([*read_assets(path).values()])
    if not found:
        raise ValueError(f"{path} has no assets: give --csv with some, or run --blocks.")
    rows = {key: measured(assets) for key, assets in found.items()}
    names = ("column", "method", "scale", "weight")
    named = [dict(zip(names, key, strict=True)) | row for key, row in rows.items()]
    of_points = path.stem.removesuffix("-assets")
    write_csv(path.with_stem(of_points if of_points != path.stem else f"{path.stem}-points"), named)
    curves: dict[tuple[str, float], dict[str, dict[float, Row]]] = {}
    for (column, name, scale, weight), row in sorted(rows.items(), key=lambda item: item[0][::2]):
        curves.setdefault((column, scale), {}).setdefault(name, {})[weight] = row
    shown = [key for key in curves if key[0] == "shipped" or key[1] == MIDDLE] or [*curves]
    _picture({key: curves[key] for key in shown}, picture)
    table = ["| prior, prompts | s | method | decades | prompts |", "| --- " * 5 + "|"]
    for (column, scale), of_names in curves.items():
        for name, of in of_names.items():
            if len(of) > 2:
                both, low, high = width({w: found[column, name, scale, w] for w in of})
                decades = f"{both:.1f} [{low:.1f}, {high:.1f}]"
                fewest = min(row["prompts"] for row in of.values())
                cells = COLUMNS[column], f"x {scale:g}", name, decades, str(fewest)
                table.append(f"| {' | '.join(cells)} |")
    return "\n".join(table) + "\n"


def _picture(
    panels: Mapping[tuple[str, float], Mapping[str, Mapping[float, Row]]], path: Path
) -> None:
    """For each prior and scale both goals against the weight, and one against the other."""
    figure = Figure(figsize=(max(3.2 * len(panels), 11), 9), layout="constrained")
    axes = figure.subplots(3, len(panels), squeeze=False, sharey="row")
    for ((column, scale), of_names), own in zip(panels.items(), axes.T, strict=True):
        for name, of in of_names.items():
            if name in LABELS:
                style = {"color": f"C{[*LABELS].index(name)}", "label": LABELS[name]}
                _curve(own, of, style)
        own[0].set_title(f"{COLUMNS[column]},\nguidance scale x {scale:g}", fontsize=9)
        own[0].axhline(LIMIT, color="gray", linestyle=":")
        own[1].axhline(ENOUGH, color="gray", linestyle=":")
        own[1].set_xlabel("energy weight, times the hand-set one")
        own[2].set_xlabel("not one face, %")
        own[2].fill_between([0, LIMIT], ENOUGH, 100, color="gray", alpha=0.2, linewidth=0)
    for ax, label in zip(axes[:, 0], ("not one face, %", *["R-Precision, %"] * 2), strict=True):
        ax.set_ylabel(label)
    labelled = [zip(*ax.get_legend_handles_labels(), strict=True) for ax in axes[2]]
    handles = {label: handle for pairs in labelled for handle, label in pairs}
    labels = [label for label in LABELS.values() if label in handles]
    if labels:
        handles = [handles[label] for label in labels]
        figure.legend(handles, labels, loc="outside lower center", ncols=8, fontsize=9)
    with replacing(path) as new:
        figure.savefig(new, dpi=100, format="png")


def _curve(axes: Sequence[Axes], of: Mapping[float, Row], style: Row) -> None:
    """With intervals, and with Pareto's front where it has more than one point."""
    for ax, goal in zip(axes[:2], GOALS, strict=True):
        y = [row[goal] for row in of.values()]
        low, high = ([row[f"{goal}{end}"] for row in of.values()] for end in ("_low", "_high"))
        if 0 in of:  # SDS has no weight
            ax.axhline(y[0], linestyle="--", linewidth=1, color=style["color"])
            continue
        ax.plot(list(of), y, marker="o", markersize=3, **style)
        ax.set_xscale("log")
        if None not in low:
            ax.fill_between(list(of), low, high, color=style["color"], alpha=0.12, linewidth=0)
    pairs = [tuple(row[goal] for goal in GOALS) for row in of.values()]
    axes[2].plot(*zip(*pairs, strict=True), linestyle="", marker="o", markersize=4, **style)
    worse = {p for p in pairs for q in pairs if q != p and q[0] <= p[0] and q[1] >= p[1]}
    front = sorted({*pairs} - worse)  # Pareto's
    axes[2].step(*zip(*front, strict=True), where="post", color=style["color"], alpha=0.5)
