"""The plot that shows why: the score round the asset, its faces, and the views beneath."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from threestudio_jointdreamer.files import replacing
from threestudio_jointdreamer.systems.picture_grid import to_tile
from threestudio_jointdreamer.systems.turntable import nearest_views
from torch import Tensor

from .verdict import GRID_DEG, Verdict

SHOWN_DEG = tuple(range(0, 360, 30))
INK, CURVE, FACE, ALARM = "#464644", "#3b6ea5", "#5f8f4e", "#c8553d"
_HALF = 14.0  # of a shown view, in degrees of the axis


def draw_verdict(
    frames: Float[Tensor, "V H W 3"],
    azimuths_deg: Float[Tensor, " V"],
    verdict: Verdict,
    path: str | Path,
    title: str = "",
) -> None:
    """Draws a verdict to a file.

    Above: each view's score (dots), the smoothed score (line), the least score of a face (dashes)
    and the faces found (shaded; red if the asset is Janus). Below: twelve of the views.

    Args:
        frames, azimuths_deg: that were judged.
        title: comes before the verdict.
    """
    figure = Figure(figsize=(12, 4.4), layout="constrained", facecolor="white")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.6, 1])
    words = verdict.in_words()
    if not verdict.calibrated:
        words += f" (the detector {verdict.detector} is uncalibrated here)"
    figure.suptitle(
        f"{title}: {words}" if title else words, fontsize=11, color=INK, x=0.02, ha="left"
    )
    _draw_profile(above, azimuths_deg, verdict)
    _draw_views(below, frames, azimuths_deg)
    with replacing(path) as new:
        figure.savefig(new)


def _draw_profile(axes: Axes, azimuths_deg: Tensor, verdict: Verdict) -> None:
    color = ALARM if verdict.janus else FACE
    for azimuth, extent in zip(verdict.faces_deg, verdict.extents_deg, strict=True):
        for turn in (-360, 0, 360):
            left, right = azimuth + turn - extent / 2, azimuth + turn + extent / 2
            axes.axvspan(left, right, color=color, alpha=0.18, lw=0)
            axes.axvline(azimuth + turn, color=color, lw=1)
    grid = np.arange(-len(verdict.profile), 2 * len(verdict.profile)) * GRID_DEG
    axes.plot(grid, np.tile(verdict.profile.numpy(), 3), color=CURVE, lw=1.6)
    around = (azimuths_deg.float().cpu().numpy() + 15) % 360 - 15
    axes.plot(around, verdict.scores.numpy(), ".", color=CURVE, ms=4, alpha=0.5)
    axes.axhline(verdict.limits.face, color=INK, lw=0.8, ls="--")
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("a face looks at the camera", fontsize=8, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_views(axes: Axes, frames: Tensor, azimuths_deg: Tensor) -> None:
    chosen = nearest_views(azimuths_deg.tolist(), SHOWN_DEG)
    for shown, index in zip(SHOWN_DEG, chosen, strict=True):
        place = (shown - _HALF, shown + _HALF, 0, 1)
        axes.imshow(to_tile(frames[index]), extent=place, aspect="auto", zorder=2)
    axes.set(xlim=(-15, 345), ylim=(0, 1), yticks=[], xticks=SHOWN_DEG)
    axes.set_xticklabels([f"{azimuth}°" for azimuth in SHOWN_DEG], fontsize=8, color=INK)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
