"""Coherence by order: the farther a view is from the front, the less it should look like it."""

from dataclasses import dataclass
from typing import Annotated

import threestudio
import torch
from jaxtyping import Float
from torch import Tensor

from .base import Views
from .decoded import EmbeddingEnergy
from .reference import REFERENCES, from_front, reference_first, reorder


@threestudio.register("jsd-order-energy")
class OrderEnergy(EmbeddingEnergy):
    """C = −Σ_k relu(cos(f_0, f_{k+1}) − cos(f_0, f_k)) (ConsDreamer, arXiv 2504.02316).

    f is an image embedding of the decoded x̂0, in the paper a CLIP's. f_0 is the reference view's,
    and the others follow by how far their azimuth is from it, left and right taken as equal: a
    second face behind looks more like the front than the sides do. No 3D data are needed.

    Views that all look the same are in order too, so a `margin` may say how much the similarity is
    to fall. The paper has none, lets the gradient change the reference as well, and takes any view
    for it: `margin: 0, detach_reference: false, reference: random`.

    Config, beside what `EmbeddingEnergy` says:
        reference: the view that the others are compared with: the most `frontal` one, whose azimuth
            is nearest to 0; a `random` one; or the `first`.
        detach_reference: the gradient leaves the reference alone, which keeps its face.
        margin: how much the cosine is to fall over 180 degrees, evenly.
    """

    @dataclass
    class Config(EmbeddingEnergy.Config):
        reference: Annotated[str, REFERENCES] = "frontal"
        detach_reference: bool = True
        margin: Annotated[float, "[0, 2]"] = 0.0

    cfg: Config

    def __call__(self, views: Views) -> Float[Tensor, " N"]:
        if views.n_view < 3:
            raise ValueError(
                f"jsd-order-energy puts views in order, but there are {views.n_view} per object: "
                "set system.guidance.n_view to 3 or more."
            )
        order = reference_first(self.cfg.reference, views)
        f, angle = reorder(self.features(views), order), reorder(from_front(views.azimuth), order)
        f_0 = f[:, :1].detach() if self.cfg.detach_reference else f[:, :1]
        cosine = (f_0 * f[:, 1:]).sum(dim=-1)
        angle = (angle[:, 1:] - angle[:, :1]).abs()
        farther = angle.argsort(dim=1)
        cosine, angle = reorder(cosine, farther), reorder(angle, farther)
        expected = self.cfg.margin * angle.diff(dim=1) / 180
        return -torch.relu(cosine.diff(dim=1) + expected).sum(dim=1)
