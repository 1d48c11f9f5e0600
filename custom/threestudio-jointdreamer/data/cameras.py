"""Cameras in threestudio's convention, and the batch of rays and matrices made from them."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from threestudio.utils.ops import (
    get_mvp_matrix,
    get_projection_matrix,
    get_ray_directions,
    get_rays,
)
from torch import Tensor

NEAR, FAR = 0.01, 100.0  # threestudio's clip planes for rasterizers


@dataclass
class Cameras:
    """B cameras: z is up in the world, azimuth 0 looks from +x. Angles in degrees but `fovy`."""

    position: Float[Tensor, "B 3"]
    center: Float[Tensor, "B 3"]
    up: Float[Tensor, "B 3"]
    light_position: Float[Tensor, "B 3"]
    fovy: Float[Tensor, " B"]
    elevation_deg: Float[Tensor, " B"]
    azimuth_deg: Float[Tensor, " B"]
    distance: Float[Tensor, " B"]


def orbit(
    elevation_deg: Float[Tensor, " B"],
    azimuth_deg: Float[Tensor, " B"],
    distance: Float[Tensor, " B"],
) -> Float[Tensor, "B 3"]:
    """Positions on spheres around the origin."""
    elevation, azimuth = elevation_deg.deg2rad(), azimuth_deg.deg2rad()
    across = elevation.cos()
    direction = torch.stack(
        [across * azimuth.cos(), across * azimuth.sin(), elevation.sin()], dim=-1
    )
    return distance[:, None] * direction


def look_at(
    position: Float[Tensor, "B 3"], center: Float[Tensor, "B 3"], up: Float[Tensor, "B 3"]
) -> Float[Tensor, "B 4 4"]:
    """Camera-to-world matrices that look along −z from `position` to `center` (OpenGL)."""
    ahead = F.normalize(center - position, dim=-1)
    right = F.normalize(torch.linalg.cross(ahead, up), dim=-1)
    above = torch.linalg.cross(right, ahead)
    c2w = torch.zeros(len(position), 4, 4)
    c2w[:, :3] = torch.stack([right, above, -ahead, position], dim=-1)
    c2w[:, 3, 3] = 1.0
    return c2w


def camera_batch(
    cameras: Cameras,
    height: int,
    width: int,
    normalize: bool,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """threestudio's batch for `cameras`.

    Args:
        device: that makes the rays, the one large part of a batch, and keeps them.

    Returns:
        `rays_o`, `rays_d` [B H W 3], `mvp_mtx`, `proj_mtx`, `c2w` [B 4 4], `camera_positions`,
        `light_positions` [B 3], `elevation`, `azimuth` (degrees), `camera_distances`, `fovy`
        (radians) [B], `height`, `width`.
    """
    c2w = look_at(cameras.position, cameras.center, cameras.up)
    focal = 0.5 * height / torch.tan(0.5 * cameras.fovy)
    there = {"device": device, "non_blocking": True}  # waits for nothing that a GPU has yet to do
    directions = get_ray_directions(H=height, W=width, focal=1.0).to(**there)
    directions = directions.repeat(len(focal), 1, 1, 1)
    directions[..., :2] = directions[..., :2] / focal.to(**there)[:, None, None, None]
    rays_o, rays_d = get_rays(directions, c2w.to(**there), keepdim=True, normalize=normalize)
    proj_mtx = get_projection_matrix(cameras.fovy, width / height, NEAR, FAR)
    return {
        "rays_o": rays_o,
        "rays_d": rays_d,
        "mvp_mtx": get_mvp_matrix(c2w, proj_mtx),
        "proj_mtx": proj_mtx,
        "camera_positions": cameras.position,
        "c2w": c2w,
        "light_positions": cameras.light_position,
        "elevation": cameras.elevation_deg,
        "azimuth": cameras.azimuth_deg,
        "camera_distances": cameras.distance,
        "height": height,
        "width": width,
        "fovy": cameras.fovy,
    }
