"""The six level views that Wonder3D and MV-Adapter were trained on."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

AZIMUTHS = (0.0, 45.0, 90.0, 180.0, 270.0, 315.0)  # front, front right, right, and so on; degrees


def places(
    elevation: Float[Tensor, "N V"],
    azimuth: Float[Tensor, "N V"],
    azimuth_tolerance: float,
    elevation_tolerance: float,
    model: str,
    origin: str,
) -> Int[Tensor, "N V"]:
    """Which of the six views each view is; everything in degrees.

    Args:
        model, origin: what they are called in errors, and what the azimuth counts from.

    Raises:
        ValueError: a view that is none of them, or two of an object that are the same.
    """
    elevation, azimuth = elevation.cpu(), azimuth.cpu() % 360
    steepest = elevation.flatten()[elevation.abs().argmax()].item()
    if abs(steepest) > elevation_tolerance + 1e-3:
        raise ValueError(
            f"A view has elevation {steepest:.1f}°, but {model}'s six views stand on a level "
            f"circle, and energy.elevation_tolerance={elevation_tolerance:g}: set "
            f"data.elevation_range=[{-elevation_tolerance:g}, {elevation_tolerance:g}], or raise "
            "the tolerance."
        )
    away = (azimuth[..., None] - azimuth.new_tensor(AZIMUTHS)).abs()
    away, place = torch.minimum(away, 360 - away).min(dim=-1)
    shared = (place[..., None] == place[..., None, :]).sum(dim=-1) > 1
    if shared.any() or away.max() > azimuth_tolerance + 1e-3:
        worst = azimuth.flatten()[(away + shared).argmax()].item()
        served = ", ".join(f"{angle:g}" for angle in AZIMUTHS)
        raise ValueError(
            f"A view is {worst:.1f}° of azimuth away from {origin}, but {model} has one view at "
            f"each of {served}° and energy.azimuth_tolerance={azimuth_tolerance:g}. Use "
            f"data.n_view=4 and system.guidance.n_view=4, 90° apart from {origin} on."
        )
    return place
