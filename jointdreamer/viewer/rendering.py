"""What a system's renderer shows from any camera, without a trace in its training."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from pytorch_lightning.utilities.seed import isolate_rng
from threestudio_jointdreamer.data.cameras import Cameras, camera_batch

IMAGES = {"render": "comp_rgb", "normal": "comp_normal", "opacity": "opacity"}
PARTS = ("geometry", "material", "background", "renderer")  # of a system


@dataclass(frozen=True)
class Viewpoint:
    """A camera that looks at a point; `fovy` is in radians, `aspect` width by height."""

    position: Sequence[float]
    look_at: Sequence[float]
    up: Sequence[float]
    fovy: float
    aspect: float

    def batch(self, size: int) -> dict[str, Any]:
        """threestudio's batch of this view, `size` pixels along its longer side, lit from there."""
        vectors = torch.tensor([self.position, self.look_at, self.up], dtype=torch.float32)
        position, center, up = vectors[:, None]
        away = position - center
        distance = away.norm(dim=-1)
        elevation_deg = (away[:, 2] / distance).asin().rad2deg()
        azimuth_deg = torch.atan2(away[:, 1], away[:, 0]).rad2deg()
        angles = (torch.tensor([self.fovy]), elevation_deg, azimuth_deg, distance)
        height, width = round(size / max(1, self.aspect)), round(size * min(1, self.aspect))
        cameras = Cameras(position, center, up, position, *angles)
        return camera_batch(cameras, max(1, height), max(1, width), normalize=True)


@contextmanager
def evaluating(system: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode of what renders, without gradients; modes and random states then return."""
    parts = [part for name, part in system.named_children() if name in PARTS]
    modes = {module: module.training for part in parts for module in part.modules()}
    with isolate_rng(), torch.no_grad():
        for part in parts:
            part.eval()
        try:
            yield
        finally:
            for part in parts:
                part.train(modes[part])  # threestudio's renderers do more in it than set the mode
            for module, mode in modes.items():
                module.training = mode


def render(system: Any, view: Viewpoint, size: int, image: str) -> UInt8[np.ndarray, "H W 3"]:
    """One of `IMAGES`, `size` pixels along its longer side.

    Raises:
        ValueError: this renderer draws no such image.
    """
    batch = system.transfer_batch_to_device(view.batch(size), system.device, 0)
    with evaluating(system):
        out = system(batch)
    if IMAGES[image] not in out:
        raise ValueError(f"this run's renderer and material draw no {image}")
    pixels = out[IMAGES[image]][0].detach().float().clamp(0, 1)
    return (pixels * 255).round().byte().expand(-1, -1, 3).cpu().numpy()
