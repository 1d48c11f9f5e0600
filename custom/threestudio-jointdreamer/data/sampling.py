"""Draws the cameras of a batch: threestudio's distributions, one draw per object, V views of it."""

from dataclasses import dataclass
from math import pi, radians, sin
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .cameras import Cameras, orbit

LIGHT_STRATEGIES = ("dreamfusion", "magic3d")


@dataclass
class Draw:
    """Random numbers for the N objects of a batch, from a generator of the batch's own."""

    generator: torch.Generator
    n_object: int

    def uniform(self, low: float, high: float, *shape: int) -> Float[Tensor, "N *shape"]:
        unit = torch.rand(self.n_object, *shape, generator=self.generator)
        return unit * (high - low) + low

    def normal(self, *shape: int) -> Float[Tensor, "N *shape"]:
        return torch.randn(self.n_object, *shape, generator=self.generator)

    def integer(self, high: int) -> Float[Tensor, " N"]:
        return torch.randint(high, (self.n_object,), generator=self.generator).float()

    def strata(self) -> Float[Tensor, " N"]:
        """Uniform in [0, 1) each, one in each N-th of it, in random order."""
        order = torch.randperm(self.n_object, generator=self.generator)
        return (order + self.uniform(0.0, 1.0)) / self.n_object

    def coin(self) -> bool:
        return bool(torch.rand((), generator=self.generator) < 0.5)


def sample_cameras(cfg: Any, n_object: int, seed: int, index: int) -> Cameras:
    """The cameras of batch `index`: N·V of them, views of one object consecutive.

    Elevation, distance, field of view, light and perturbations are drawn once per object.

    Args:
        cfg: a `MultiviewCameraConfig`.
        n_object: objects in the batch, N.
        seed: of the run.
        index: of the batch in the run.
    """
    entropy = np.random.SeedSequence([seed % 2**64, index]).generate_state(1, np.uint64)[0]
    draw = Draw(torch.Generator().manual_seed(int(entropy >> np.uint64(1))), n_object)
    opened = min(1.0, (index + 1) / (cfg.progressive_until + 1))  # of the angular ranges

    low, high = ((1 - opened) * cfg.eval_elevation_deg + opened * x for x in cfg.elevation_range)
    elevation_deg = _elevation_deg(draw, low, high)
    low, high = (opened * x for x in cfg.azimuth_range)
    azimuth_deg = _azimuth_deg(draw, low, high, cfg)

    fovy_deg = draw.uniform(*cfg.fovy_range)
    distance = draw.uniform(*cfg.camera_distance_range)
    if cfg.relative_radius:
        distance = distance / torch.tan(fovy_deg.deg2rad() / 2)
    fovy_deg = fovy_deg * draw.uniform(*cfg.zoom_range)

    def per_view(x: Tensor) -> Tensor:
        return x.repeat_interleave(cfg.n_view, dim=0)

    elevation_deg, fovy_deg, distance = map(per_view, (elevation_deg, fovy_deg, distance))
    perturb = cfg.camera_perturb
    position = orbit(elevation_deg, azimuth_deg, distance)
    position = position + per_view(draw.uniform(-perturb, perturb, 3))
    return Cameras(
        position=position,
        center=per_view(draw.normal(3) * cfg.center_perturb),
        up=torch.tensor([0.0, 0.0, 1.0]) + per_view(draw.normal(3) * cfg.up_perturb),
        light_position=_light(draw, position, cfg),
        fovy=fovy_deg.deg2rad(),
        elevation_deg=elevation_deg,
        azimuth_deg=azimuth_deg,
        distance=distance,
    )


def _elevation_deg(draw: Draw, low: float, high: float) -> Float[Tensor, " N"]:
    """Half of the batches uniform in angle (favours poles), half uniform on the sphere."""
    if draw.coin():
        return draw.uniform(low, high)
    height = draw.uniform(sin(radians(low)), sin(radians(high)))
    return height.clamp(-1.0, 1.0).asin().rad2deg()


def _azimuth_deg(draw: Draw, low: float, high: float, cfg: Any) -> Float[Tensor, " NV"]:
    """A random first azimuth per object in [low, high), the other views at equal steps from it.

    `batch_uniform_azimuth` stratifies the batch. Where the views of an object close the circle,
    turning it by one view spacing gives the same set of views, so it is the place within one
    spacing that is stratified.
    """
    n_view, span = cfg.n_view, cfg.azimuth_span
    closed = span == 360
    part = draw.strata() if cfg.batch_uniform_azimuth else draw.uniform(0.0, 1.0)
    if cfg.batch_uniform_azimuth and closed and high - low == 360:
        part = (draw.integer(n_view) + part) / n_view
    first = low + part * (high - low)
    spacing = span / n_view if closed else span / max(1, n_view - 1)
    return (first[:, None] + spacing * torch.arange(n_view)).flatten()


def _light(draw: Draw, position: Float[Tensor, "NV 3"], cfg: Any) -> Float[Tensor, "NV 3"]:
    """A point light per view, at the same place relative to each view's camera."""

    def per_view(x: Tensor) -> Tensor:
        return x.repeat_interleave(cfg.n_view, dim=0)

    distance = per_view(draw.uniform(*cfg.light_distance_range))[:, None]
    if cfg.light_sample_strategy == "dreamfusion":  # around the camera
        shift = per_view(draw.normal(3)) * cfg.light_position_perturb
        return F.normalize(position + shift, dim=-1) * distance
    # magic3d: in a ring 0 to 60 degrees off the direction to the camera
    ahead = F.normalize(position, dim=-1)
    side = F.normalize(torch.stack([ahead[:, 1], -ahead[:, 0], 0 * ahead[:, 0]], -1), dim=-1)
    above = torch.linalg.cross(ahead, side)
    azimuth = per_view(draw.uniform(-pi, pi))[:, None]
    elevation = per_view(draw.uniform(pi / 6, pi / 2))[:, None]
    direction = (
        elevation.cos() * (azimuth.cos() * side + azimuth.sin() * above) + elevation.sin() * ahead
    )
    return direction * distance
