"""Rings of cameras around the origin, with the keys that threestudio's data modules use."""

import torch

from ..tinyworld.renderer import orbit_cameras


def camera_ring(n_object: int, n_view: int, distance: float = 2.0) -> dict[str, torch.Tensor]:
    """`n_view` cameras 360/V degrees apart around each object; each object has its elevation."""
    index = torch.arange(n_object * n_view)
    elevation = 10.0 * (1 + index // n_view).float()
    azimuth = (index % n_view) * 360.0 / n_view
    distances = torch.full_like(azimuth, distance)
    return {
        "elevation": elevation,
        "azimuth": azimuth,
        "camera_distances": distances,
        "c2w": orbit_cameras(azimuth, elevation, distances),
        "fovy": torch.full_like(azimuth, 0.7),
    }
