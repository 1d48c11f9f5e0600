"""Looks at each creature of a scene by itself."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..runs import CHECKPOINT
from ..tinyworld.scenes import PLACES, SCALE
from .views import AssetViews, load_run, render_views, run_cameras

NAMES = ("first", "second")  # in the prompt's order


def creatures_of(run: Path, size: int = 128, device: str | None = None) -> dict[str, AssetViews]:
    """The views of the two creatures of a run, each without the other, by `NAMES`.

    Only the half of the volume that a creature stands in is marched through; cameras stand about
    it as they do about an asset, so much nearer that it looks as large.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: the run's renderer has no occupancy grid.
    """
    if not (run / CHECKPOINT).is_file():
        raise FileNotFoundError(f"{run} has no {CHECKPOINT}: a scene is looked at through it.")
    cfg, system = load_run(run, device)
    grid = getattr(system.renderer, "estimator", None)
    if grid is None:
        raise ValueError(
            f"{run}: the creatures of a scene are told apart in an occupancy grid, which "
            f"{cfg.system.renderer_type} has not. Use nerf-volume-renderer."
        )
    whole = grid.binaries.clone()  # [levels X Y Z]
    right = torch.arange(whole.shape[2], device=whole.device) >= whole.shape[2] // 2
    found = {}
    for name, place, half in zip(NAMES, PLACES, (~right, right), strict=True):
        grid.binaries.copy_(whole & half[:, None])
        center = torch.tensor(place, device=system.device)

        def render(batch: dict[str, Any], center: Tensor = center) -> dict[str, Tensor]:
            return system({**batch, "rays_o": SCALE * batch["rays_o"] + center})

        shown = run_cameras(run, cfg, size)
        found[name] = render_views(render, shown, system.device, f"{run / CHECKPOINT}, {name}")
    return found
