"""The weighted sum of SDS and the loss of a multi-view model, written as an energy at the renders.

SDS plus multi-view distillation has the gradient

    dL/dx = w (eps_hat - eps) + lambda_mv d

with d = w (eps_mv - eps) = w (sqrt(abar) / sigma) (x - x_mv), which is SDS with the multi-view
model M ("score"), or d = x - x_mv, MVDream's x0-reconstruction loss ("reconstruction", Shi et al.
2023, arXiv 2308.16512, eq. 5). JSD's gradient (guidance/jsd.py, equation 5) is

    dL/dx = w (eps_hat - lambda sigma g - eps),    g = dC/dx_t.

Both are equal for C = -1/2 a sum_i ||M^i - x^i||^2 if C is evaluated at the renders x, where JSD
evaluates it at the 2D prior's estimate x0_hat, and differentiated as if x were x0_hat, so that
g = a (x_mv - x) / sqrt(abar): with lambda = lambda_mv and a = abar / sigma^2 for "score", or
a = sqrt(abar) / (sigma w) for "reconstruction". So the one difference to jsd-multiview-energy is
where the views are compared, and the 2D prior, the multi-view model, noise and time are the same.

JSD's own bracket with C = -sum_i ||M^i - x0_hat^i||^2 is SDS's plus

    kappa (x - x_mv) + kappa (sigma / sqrt(abar)) (eps - eps_phi)

with kappa = 2 lambda sigma / sqrt(abar). The first is jsd-guidance with denoised_from: render; the
second an energy by itself, "drift": C = -sum_i ||x^i - x0_hat^i||^2, x a constant, without M.
"""

from dataclasses import dataclass

import threestudio
import torch
from jaxtyping import Float
from threestudio_jointdreamer.energies.base import Views
from threestudio_jointdreamer.energies.multiview import MultiviewEnergy
from threestudio_jointdreamer.priors.schedule import WEIGHTINGS
from torch import Tensor

LOSSES = ("score", "reconstruction", "drift")


@threestudio.register("multiview-distillation-energy")
class MultiviewDistillationEnergy(MultiviewEnergy):
    """C whose gradient in jsd-guidance is that of a multi-view loss; energy_weight is lambda_mv.

    Config, beside what `MultiviewEnergy` says:
        loss: `score`, `reconstruction`, or the second of JSD's terms alone, `drift`; see above.
        weighting_strategy: jsd-guidance's, w above.
    """

    @dataclass
    class Config(MultiviewEnergy.Config):
        loss: str = "score"
        weighting_strategy: str = "sds"

    cfg: Config

    def configure(self) -> None:
        if self.cfg.loss not in LOSSES:
            raise ValueError(f"energy.loss={self.cfg.loss!r}: use one of {', '.join(LOSSES)}.")
        if self.cfg.weighting_strategy not in WEIGHTINGS:
            raise ValueError(
                f"energy.weighting_strategy={self.cfg.weighting_strategy!r}: use jsd-guidance's, "
                f"one of {', '.join(WEIGHTINGS)}."
            )
        super().configure()

    def __call__(self, views: Views) -> Float[Tensor, " N"]:
        if self.cfg.loss == "drift":
            drift = views.denoised - views.latents.detach()
            return -drift.square().sum(dim=(1, 2, 3, 4))
        at_the_renders = views.latents.detach() + views.denoised - views.denoised.detach()
        residual = self.predict(views) - at_the_renders
        if self.cfg.mask_with_opacity:
            residual = residual * self._mask(views)
        return -0.5 * self._weight(views) * residual.square().sum(dim=(1, 2, 3, 4))

    def _weight(self, views: Views) -> Float[Tensor, " N"]:
        """a above, of each object."""
        one_each = torch.ones_like(views.t, dtype=views.latents.dtype)[:, None, None, None]
        path = views.prior.schedule
        alpha, sigma = (f(views.t, one_each).flatten() for f in (path.alpha, path.sigma))
        if self.cfg.loss == "score":
            return alpha**2 / sigma**2
        w = path.weight(self.cfg.weighting_strategy, views.t, one_each).flatten()
        return alpha / (sigma * w)
