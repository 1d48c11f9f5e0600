"""Weights, points, rays and probes from seeds alone, so that every host has the same ones."""

import random
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

GRID_SPREAD = 0.1  # standard deviation of a hash grid's entries; trained ones are like this
MARGIN = 0.005  # of a grid cell: how near to its walls no point lies


def _generator(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def normal(name: str, *shape: int) -> Tensor:
    """Standard normal numbers that depend on `name` and the shape only."""
    return torch.randn(*shape, generator=_generator(name))


def uniform(name: str, low: float, high: float, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=_generator(name)) * (high - low) + low


def probe(like: Tensor, name: str) -> Tensor:
    """Fixed numbers to weigh an output with, so that one scalar has all of its gradients."""
    return normal(f"probe {name}", *like.shape).to(like)


@torch.no_grad()
def fill(module: nn.Module) -> nn.Module:
    """Gives every parameter numbers that depend on its name and shape only."""
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1:  # a grid's entries
            parameter.copy_(GRID_SPREAD * normal(name, *parameter.shape))
        else:
            bound = parameter.shape[-1] ** -0.5
            parameter.copy_(uniform(name, -bound, bound, *parameter.shape))
    return module


def seed(number: int) -> None:
    """Seeds every source of random numbers that a host draws from."""
    torch.manual_seed(number)
    np.random.seed(number)
    random.seed(number)


def points_in_cells(
    encoding: Mapping[str, Any], count: int, name: str = "points"
) -> Float[Tensor, "N 3"]:
    """Points of the unit cube that lie inside a cell of every level of a grid encoding.

    Derivatives of a grid jump at the walls of its cells. Where two implementations round a
    position to different sides of a wall, both are right and their derivatives differ.
    """
    candidates = uniform(name, 0.001, 0.999, 40 * count, 3)
    inside = torch.ones(len(candidates), dtype=torch.bool)
    for level in range(int(encoding.get("n_levels", 0))):
        growth = float(encoding["per_level_scale"])
        scale = encoding["base_resolution"] * growth**level - 1
        fraction = (candidates.double() * scale + 0.5).remainder(1)
        inside &= ((fraction > MARGIN) & (fraction < 1 - MARGIN)).all(dim=-1)
    chosen = candidates[inside][:count]
    assert len(chosen) == count, f"only {len(chosen)} of {count} points"
    return chosen


def rays(batch: int, size: int) -> dict[str, Tensor]:
    """Rays from around the unit ball to random points in it, as a batch [B, H, W, 3] of views."""
    azimuth = torch.arange(batch) * (2 * torch.pi / batch) + 0.3
    position = 2.7 * torch.stack(
        [0.9 * azimuth.cos(), 0.9 * azimuth.sin(), torch.full_like(azimuth, 0.43)], dim=-1
    )
    target = 0.9 * (2 * uniform("targets", 0, 1, batch, size, size, 3) - 1)
    rays_o = position[:, None, None].expand_as(target).contiguous()
    rays_d = torch.nn.functional.normalize(target - rays_o, dim=-1)
    return {
        "rays_o": rays_o,
        "rays_d": rays_d,
        "light_positions": position + 0.5 * normal("lights", batch, 3),
    }
