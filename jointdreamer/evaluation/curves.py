"""Draws what runs logged: all of one run (loss, gradient, energy, rates), or methods' gradients."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from matplotlib import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from threestudio_jointdreamer.files import replacing

from ..runs import Run, Series

COLUMNS = 3
INK = "#464644"
COLORS = ("#3b6ea5", "#c8553d", "#5f8f4e", "#8c6bb1", "#b58a2a", "#5b5b58")
METHOD_COLORS = (*COLORS, "#3f8f8f", "#b0507f", "#7a4a2b", "#a3b82f", "#111110", "#e0a3b4")


@dataclass(frozen=True)
class Panel:
    """One small diagram of what is logged under `names`, which may be patterns as of files."""

    title: str
    names: tuple[str, ...]
    log_scale: bool = False


PANELS = (
    Panel("loss_sds", ("train/loss_sds",), log_scale=True),
    Panel("gradient norm", ("train/grad_norm",), log_scale=True),
    Panel("energy", ("train/energy",)),
    Panel("guidance scale", ("train/guidance_scale",)),
    Panel("energy weight", ("train_params/energy_weight", "train/energy_weight")),
    Panel("noise level t", ("train/min_step", "train/max_step")),
    Panel("learning rates", ("train_params/lr_*", "lr-*"), log_scale=True),
    Panel(
        "regularisers",
        ("train/loss_orient", "train/loss_sparsity", "train/loss_opaque", "train/loss_z_variance"),
    ),
)


def draw_curves(run: Run, path: str | Path) -> None:
    """Writes one picture of all panels that the run has numbers for.

    Raises:
        FileNotFoundError: the run has no logs.
        ValueError: the logs hold none of the known numbers.
    """
    drawn = panels_of(run.metrics())
    if not drawn:
        raise ValueError(
            f"The logs in {run.folder}/csv_logs hold none of "
            f"{', '.join(panel.title for panel in PANELS)}. Did the run stop before its first step?"
        )
    rows = -(-len(drawn) // COLUMNS)
    figure = Figure(figsize=(4.2 * COLUMNS, 2.7 * rows), layout="constrained", facecolor="white")
    for place, (panel, found) in enumerate(drawn, start=1):
        _draw(figure.add_subplot(rows, COLUMNS, place), panel, found)
    with replacing(path) as new:
        figure.savefig(new)


def panels_of(metrics: Mapping[str, Series]) -> list[tuple[Panel, dict[str, Series]]]:
    """The panels that there are numbers for, and these by name."""
    metrics = _effective_rates(metrics)
    return [(panel, found) for panel in PANELS if (found := _select(panel, metrics))]


def short_name(name: str) -> str:
    """Of a curve, among those of its panel."""
    return name.rpartition("/")[2].removeprefix("lr_").removeprefix("lr-")


def draw_methods(curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """SVG of each method's gradient norm over the steps, (step, norm > 0), in one diagram."""
    figure = Figure(figsize=(8.4, 3.4), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.set_prop_cycle(cycler(ls=["-", "--", ":"]) * cycler(color=METHOD_COLORS))
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), lw=1, label=name)
    axes.set_yscale("log")
    axes.set_xlabel("step", fontsize=8, color=INK)
    axes.set_ylabel("gradient norm", fontsize=8, color=INK)
    _style(axes)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False, labelcolor=INK)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _effective_rates(metrics: Mapping[str, Series]) -> dict[str, Series]:
    """Replaces an optimizer's own rate of a group by the rate that geometry fading made of it."""
    prefix = "train_params/lr_"
    faded = {name.removeprefix(prefix) for name in metrics if name.startswith(prefix)}
    return {
        name: series
        for name, series in metrics.items()
        if not (name.startswith("lr-") and name.rpartition("/")[2] in faded)
    }


def _select(panel: Panel, metrics: dict[str, Series]) -> dict[str, Series]:
    found = [name for name in metrics if any(fnmatch(name, pattern) for pattern in panel.names)]
    return {name: metrics[name] for name in sorted(found)}


def _draw(axes: Axes, panel: Panel, found: dict[str, Series]) -> None:
    for place, (name, series) in enumerate(found.items()):
        steps, values = zip(*series, strict=True)
        color = COLORS[place % len(COLORS)]
        axes.plot(steps, values, lw=1.1, label=short_name(name), color=color)
    if panel.log_scale and all(value > 0 for series in found.values() for _, value in series):
        axes.set_yscale("log")
    if len(found) > 1:
        axes.legend(fontsize=7, frameon=False)
    axes.set_title(panel.title, fontsize=9, color=INK, loc="left")
    _style(axes)


def _style(axes: Axes) -> None:
    axes.tick_params(which="both", labelsize=7, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e4e4e1", lw=0.6)
    axes.set_axisbelow(True)
