"""Ray-casts ellipsoid creatures exactly: nearest hit, soft light from above, a plain background."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .creatures import Ellipsoids

AMBIENT = 0.78  # light that reaches every surface; the rest comes from straight above


def orbit_cameras(
    azimuth_deg: Float[Tensor, " B"],
    elevation_deg: Float[Tensor, " B"],
    distance: Float[Tensor, " B"],
) -> Float[Tensor, "B 4 4"]:
    """Camera-to-world matrices looking at the origin in threestudio's convention.

    z is up, azimuth 0 looks from +x, the camera looks along its -z.
    """
    azimuth, elevation = torch.deg2rad(azimuth_deg), torch.deg2rad(elevation_deg)
    across = elevation.cos()
    back = torch.stack([across * azimuth.cos(), across * azimuth.sin(), elevation.sin()], dim=-1)
    right = torch.stack([-azimuth.sin(), azimuth.cos(), torch.zeros_like(azimuth)], dim=-1)
    up = torch.linalg.cross(back, right)
    c2w = torch.eye(4, device=azimuth.device).repeat(len(azimuth), 1, 1)
    c2w[:, :3] = torch.stack([right, up, back, back * distance[:, None]], dim=-1)
    return c2w


def _ray_directions(c2w: Tensor, fovy_deg: Tensor, size: int) -> Float[Tensor, "B P 3"]:
    """Unit directions through the pixel centres of a `size` x `size` image, row by row."""
    half = torch.tan(torch.deg2rad(fovy_deg) / 2)
    grid = (torch.arange(size, device=c2w.device) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(-grid, grid, indexing="ij")
    local = torch.stack([x, y, torch.zeros_like(x)], dim=-1).view(1, -1, 3) * half[:, None, None]
    local[..., 2] = -1.0
    return F.normalize(local @ c2w[:, :3, :3].transpose(1, 2), dim=-1)


def render(
    objects: Ellipsoids,
    c2w: Float[Tensor, "B 4 4"],
    fovy_deg: Float[Tensor, " B"],
    background: Float[Tensor, "B 3"],
    size: int = 64,
    supersample: int = 2,
) -> Float[Tensor, "B 3 size size"]:
    """Renders object b with camera b.

    Args:
        objects: B objects.
        c2w: camera-to-world matrices (OpenGL axes).
        supersample: rays per pixel along each axis; they are averaged.

    Returns:
        Colours in [0, 1].
    """
    fine = size * supersample
    directions = _ray_directions(c2w, fovy_deg, fine)
    origin = torch.einsum("bkij,bkj->bki", objects.inverse, c2w[:, None, :3, 3] - objects.center)
    # Unit-sphere frame of every ellipsoid: |o + t A d|^2 = 1. No B P K 3 numbers are made.
    outer = (directions[..., None] * directions[..., None, :]).flatten(2)
    quadratic = (objects.inverse.transpose(2, 3) @ objects.inverse).flatten(2)
    a = outer @ quadratic.transpose(1, 2)
    b = directions @ torch.einsum("bkij,bki->bjk", objects.inverse, origin)
    c = origin.square().sum(-1)[:, None] - 1
    discriminant = b.square() - a * c
    depth = (-b - discriminant.clamp_min(0).sqrt()) / a
    depth = depth.masked_fill((discriminant <= 0) | ~objects.present[:, None], math.inf)
    nearest, index = depth.min(dim=-1)

    hit = nearest.isfinite()
    pick = index[..., None].expand(-1, -1, 3)
    inverse = objects.inverse.flatten(2).gather(1, index[..., None].expand(-1, -1, 9))
    inverse = inverse.view(*index.shape, 3, 3)
    local = (inverse * directions[:, :, None]).sum(-1)
    surface = origin.gather(1, pick) + torch.where(hit, nearest, 0)[..., None] * local
    normal = (inverse * surface[..., None]).sum(-2)
    height = F.normalize(normal, dim=-1)[..., 2:]

    shade = AMBIENT + (1 - AMBIENT) * height
    color = objects.color.gather(1, pick) * shade
    color = torch.where(hit[..., None], color, background[:, None])
    image = color.view(-1, fine, fine, 3).permute(0, 3, 1, 2)
    return F.avg_pool2d(image, supersample).clamp(0, 1)
