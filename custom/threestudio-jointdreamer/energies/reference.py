"""The one of an object's views that the others are made, or judged, from."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .base import Views

REFERENCES = ("first", "frontal", "random")


def reference_first(name: str, views: Views) -> Int[Tensor, "N V"]:
    """The views of each object in their order around it, beginning at its reference.

    Args:
        name: the `first`; the most `frontal` one, whose azimuth is nearest to 0; or a `random` one.
    """
    count, device = views.n_view, views.azimuth.device
    if name == "first":
        reference = torch.zeros(views.n_object, dtype=torch.long, device=device)
    elif name == "random":
        reference = torch.randint(count, (views.n_object,), device=device)
    else:
        reference = from_front(views.azimuth).argmin(dim=1)
    return (reference[:, None] + torch.arange(count, device=device)) % count


def from_front(azimuth: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Degrees between azimuth 0 and these, in [0, 180]."""
    azimuth = azimuth % 360
    return torch.minimum(azimuth, 360 - azimuth)


def reorder(x: Tensor, order: Int[Tensor, "N V"]) -> Tensor:
    """The views `N V ...` of each object in that order; `order.argsort(dim=1)` undoes it."""
    return x[torch.arange(len(x), device=x.device)[:, None], order]
