"""Distillation of the multi-view model alone: jsd-guidance without the 2D prior's share."""

from dataclasses import replace
from typing import Any

import threestudio
import torch
from jaxtyping import Float
from threestudio_jointdreamer.guidance.jsd import Distilled
from threestudio_jointdreamer.guidance.jsd_guidance import JSDGuidance
from threestudio_jointdreamer.priors.latent_prior import LatentPrior
from torch import Tensor


class Mute:
    """A prior that still encodes and decodes, and predicts nothing, in no time."""

    def __init__(self, prior: LatentPrior) -> None:
        self._prior = prior

    def predict_noise(self, x_t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return torch.zeros_like(x_t)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prior, name)


@threestudio.register("multiview-distillation-guidance")
class MultiviewDistillationGuidance(JSDGuidance):
    """dL/dx = lambda_mv d of `multiview-distillation-energy`, which must be its energy.

    lambda_mv is `energy_weight`; the 2D prior lends its VAE and its schedule.
    """

    def configure(self) -> None:
        if self.cfg.energy_type != "multiview-distillation-energy":
            raise ValueError(
                f"system.guidance.energy_type={self.cfg.energy_type!r}: "
                "multiview-distillation-guidance needs multiview-distillation-energy."
            )
        super().configure()
        self.prior = Mute(self.prior)

    def _gradient(self, distilled: Distilled) -> Float[Tensor, "B C h w"]:
        if distilled.g is None:
            raise ValueError(
                "system.guidance.energy_weight is 0: without it nothing is distilled here."
            )
        path, like = self.prior.schedule, (distilled.t, distilled.g)
        sigma, w = path.sigma(*like), path.weight(self.cfg.weighting_strategy, *like)
        own = -w * distilled.energy_weight * sigma * distilled.g
        return super()._gradient(replace(distilled, grad=own))
