"""The one of an object's views that the others are made, or judged, from."""

import torch
from jaxtyping import Int
from torch import Tensor

from .base import Views

REFERENCES = ("first", "frontal", "random")


def check_reference(name: str | None, known: tuple[str | None, ...] = REFERENCES) -> None:
    """
    Raises:
        ValueError: there is no such reference.
    """
    if name not in known:
        names = ", ".join("null" if one is None else one for one in known)
        raise ValueError(f"energy.reference={name!r}: use one of {names}.")


def choose_reference(name: str, views: Views) -> Int[Tensor, " N"]:
    """Which view of each object is the reference.

    Args:
        name: the `first`; the most `frontal` one, whose azimuth is nearest to 0; or a `random` one.
    """
    shape, device = (views.n_object,), views.azimuth.device
    if name == "first":
        return torch.zeros(shape, dtype=torch.long, device=device)
    if name == "random":
        return torch.randint(views.n_view, shape, device=device)
    azimuth = views.azimuth % 360
    return torch.minimum(azimuth, 360 - azimuth).argmin(dim=1)
