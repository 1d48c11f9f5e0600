"""No energy: with it, Joint Score Distillation is Score Distillation Sampling."""

import threestudio
from jaxtyping import Float
from torch import Tensor

from .base import Energy, Views


@threestudio.register("jsd-zero-energy")
class ZeroEnergy(Energy):
    """C ≡ 0."""

    def __call__(self, views: Views) -> Float[Tensor, " N"]:
        return 0.0 * views.denoised.sum(dim=(1, 2, 3, 4))
