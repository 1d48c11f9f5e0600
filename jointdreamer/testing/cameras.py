"""Rings of cameras around the origin, with the keys that threestudio's data modules use."""

import torch
import torch.nn.functional as F


def camera_ring(n_object: int, n_view: int, distance: float = 2.0) -> dict[str, torch.Tensor]:
    """`n_view` cameras 360/V degrees apart around each object; each object has its elevation."""
    index = torch.arange(n_object * n_view)
    elevation = 10.0 * (1 + index // n_view).float()
    azimuth = (index % n_view) * 360.0 / n_view
    el, az = elevation.deg2rad(), azimuth.deg2rad()
    eye = torch.stack([el.cos() * az.cos(), el.cos() * az.sin(), el.sin()], dim=1)
    right = F.normalize(torch.linalg.cross(-eye, torch.tensor([[0.0, 0, 1]]).expand_as(eye)))
    rotation = torch.stack([right, torch.linalg.cross(right, -eye), eye], dim=2)
    c2w = torch.eye(4).repeat(len(eye), 1, 1)
    c2w[:, :3, :3] = rotation
    c2w[:, :3, 3] = distance * eye
    return {
        "elevation": elevation,
        "azimuth": azimuth,
        "camera_distances": torch.full_like(azimuth, distance),
        "c2w": c2w,
        "fovy": torch.full_like(azimuth, 0.7),
    }
