"""Where cameras and lights stand, and the rays and matrices that follow."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio.utils.ops import get_mvp_matrix, get_projection_matrix, get_rays

NEAR, FAR = 0.01, 100.0  # clip planes of mvp_mtx


def spherical_to_cartesian(
    elevation: Float[Tensor, "B"], azimuth: Float[Tensor, "B"], distance: Float[Tensor, "B"]
) -> Float[Tensor, "B 3"]:
    """Angles in radians; z is up, azimuth 0 is +x and grows towards +y."""
    across = distance * torch.cos(elevation)
    return torch.stack(
        [across * torch.cos(azimuth), across * torch.sin(azimuth), distance * torch.sin(elevation)],
        dim=-1,
    )


def look_at(
    positions: Float[Tensor, "B 3"], center: Float[Tensor, "B 3"], up: Float[Tensor, "B 3"]
) -> Float[Tensor, "B 4 4"]:
    """Camera-to-world matrices of cameras that look along -z at `center` (OpenGL)."""
    ahead = F.normalize(center - positions, dim=-1)
    right = F.normalize(torch.linalg.cross(ahead, up), dim=-1)
    above = F.normalize(torch.linalg.cross(right, ahead), dim=-1)
    c2w = torch.zeros(positions.shape[0], 4, 4)
    c2w[:, :3] = torch.stack([right, above, -ahead, positions], dim=-1)
    c2w[:, 3, 3] = 1.0
    return c2w


def camera_batch(
    c2w: Float[Tensor, "B 4 4"],
    fovy: Float[Tensor, "B"],
    directions_unit_focal: Float[Tensor, "H W 3"],
    normalize: bool,
) -> dict[str, Tensor]:
    """What follows from a camera: its rays, matrices and position.

    Args:
        fovy: vertical field of view, radians.
        directions_unit_focal: pixels' directions for a focal length of one pixel.
        normalize: whether `rays_d` are unit vectors.

    Returns:
        `rays_o`, `rays_d` [B H W 3], `c2w`, `mvp_mtx`, `proj_mtx` [B 4 4], `camera_positions`
        [B 3], `fovy` [B].
    """
    height, width = directions_unit_focal.shape[:2]
    focal = 0.5 * height / torch.tan(0.5 * fovy)
    directions = directions_unit_focal.repeat(c2w.shape[0], 1, 1, 1)
    directions[..., :2] = directions[..., :2] / focal[:, None, None, None]
    rays_o, rays_d = get_rays(directions, c2w, keepdim=True, normalize=normalize)
    proj_mtx = get_projection_matrix(fovy, width / height, NEAR, FAR)
    return {
        "rays_o": rays_o,
        "rays_d": rays_d,
        "mvp_mtx": get_mvp_matrix(c2w, proj_mtx),
        "proj_mtx": proj_mtx,
        "c2w": c2w,
        "camera_positions": c2w[:, :3, 3],
        "fovy": fovy,
    }


def _light_near_camera(
    positions: Float[Tensor, "B 3"], distances: Float[Tensor, "B"], cfg: Any
) -> Float[Tensor, "B 3"]:
    """DreamFusion: in the direction of the camera, with noise."""
    noise = torch.randn(positions.shape) * cfg.light_position_perturb
    return F.normalize(positions + noise, dim=-1) * distances[:, None]


def _light_above_camera(
    positions: Float[Tensor, "B 3"], distances: Float[Tensor, "B"], cfg: Any
) -> Float[Tensor, "B 3"]:
    """Magic3D: anywhere up to 60 degrees off the direction of the camera."""
    ahead = F.normalize(positions, dim=-1)
    side = torch.stack([ahead[:, 1], -ahead[:, 0], torch.zeros_like(ahead[:, 0])], dim=-1)
    side = F.normalize(side, dim=-1)
    above = F.normalize(torch.linalg.cross(ahead, side), dim=-1)
    azimuth = torch.rand(len(positions)) * math.pi * 2 - math.pi
    elevation = torch.rand(len(positions)) * math.pi / 3 + math.pi / 6
    local = spherical_to_cartesian(elevation, azimuth, distances)
    return (torch.stack([side, above, ahead], dim=-1) @ local[:, :, None])[:, :, 0]


LIGHTS = {"dreamfusion": _light_near_camera, "magic3d": _light_above_camera}
