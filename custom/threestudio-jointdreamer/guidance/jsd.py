"""The gradient of Joint Score Distillation (JointDreamer, Jiang et al. 2024, arXiv 2407.12291).

Score Distillation Sampling (DreamFusion, Poole et al. 2022, arXiv 2209.14988) distils every
rendered view on its own. JSD distils the joint distribution of the V views of an object,
p(x^1..V) ∝ exp(C(x^1..V, c^1..V)) Π_i p(x^i), with an energy C that is large when the views, seen
by the cameras c, fit together. With the prior's own α_t and σ_t, which are √ᾱ_t and √(1 − ᾱ_t) for
Stable Diffusion, one t per object, an independent ε^i per view, a guidance scale s and an energy
weight λ:

    (1)  x_t^i   = α_t x^i + σ_t ε^i
    (2)  ε̂^i     = (1 + s) ε_φ(x_t^i; y, t) − s ε_φ(x_t^i; ∅, t)
    (3)  x̂0^i    = (x_t^i − σ_t ε_φ(x_t^i; ∅, t)) / α_t
    (4)  g^i     = ∂C(x̂0^1..V, c^1..V) / ∂x_t^i
    (5)  ∂L/∂x^i = w(t) (ε̂^i − λ σ_t g^i − ε^i)

The score is −ε/σ_t, so ∂C/∂x_t added to the joint score is −σ_t ∂C/∂x_t added to the noise: the σ_t
of (5). Sources: (1) is DDPM's forward process and (3) its inverse (Ho et al. 2020, eqs. 4 and 15),
(2) is classifier-free guidance in the convention of DreamFusion and JointDreamer, where s = 0 is
the plain text-conditioned prediction; (4) and (5) are JointDreamer's Joint Score Distillation. With
C ≡ 0, (5) is DreamFusion's SDS, to the last bit. `priors.schedule.RectifiedFlow` says how a flow's
velocity enters.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..priors.latent_prior import LatentPrior
from .classifier_free import NoisePrediction, Prompts, predict_noise

DENOISED_FROM: dict[str, Callable[[NoisePrediction, Tensor], Tensor]] = {  # the noise in (3)
    "uncond": lambda eps_phi, eps: eps_phi.uncond,
    "text": lambda eps_phi, eps: eps_phi.text,
    "cfg": lambda eps_phi, eps: eps_phi.guided,
    "render": lambda eps_phi, eps: eps,  # so that x̂0 is x
}
ENERGY_GRADIENTS = ("denoised", "unet")


@dataclass
class Distilled:
    """The gradient, and what it was made of; the three before the last are None where λ = 0.

    Attributes:
        grad: ∂L/∂x.
        x_t, eps, eps_hat, t: of (1) and (2).
        energy: C, one per object.
        g: of (4).
        x0_hat: of (3).
        energy_weight: λ.
    """

    grad: Float[Tensor, "B C h w"]
    x_t: Float[Tensor, "B C h w"]
    eps: Float[Tensor, "B C h w"]
    eps_hat: Float[Tensor, "B C h w"]
    t: Int[Tensor, " B"]
    energy: Float[Tensor, " N"] | None = None
    g: Float[Tensor, "B C h w"] | None = None
    x0_hat: Float[Tensor, "B C h w"] | None = None
    energy_weight: Float[Tensor, "B 1 1 1"] | float = 0.0

    def part(self, views: slice, objects: slice) -> "Distilled":
        """Of some objects of the batch, and of their views."""
        rows = {"energy": objects}
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Distilled(
            **{k: v[rows.get(k, views)] if isinstance(v, Tensor) else v for k, v in values.items()}
        )


@dataclass(frozen=True)
class JointScoreDistillation:
    """∂L/∂x of (5), by one call of the UNet.

    Attributes:
        guidance_scale: s.
        energy_weight: λ, or what makes it of ε̂ − ε, g, α_t and σ_t, such as `BalancedWeight`; where
            it is 0 the energy is not evaluated and no graph is built.
        weighting_strategy: w(t), one of `WEIGHTINGS`.
        denoised_from: the noise in (3), a key of `DENOISED_FROM`.
        energy_gradient: `denoised` takes the noise in (3) as a constant, so that
            ∂x̂0/∂x_t = 1/α_t (1 for a flow); `unet` differentiates it too.
        denoised_clamp: clamps x̂0 to ±this before the energy sees it.
        cfg_rescale: see `predict_noise`.
    """

    guidance_scale: float = 30.0
    energy_weight: float | Callable[..., Float[Tensor, "B 1 1 1"]] = 0.3125
    weighting_strategy: str = "sds"
    denoised_from: str = "uncond"
    energy_gradient: str = "denoised"
    denoised_clamp: float | None = None
    cfg_rescale: float = 0.0

    def __call__(
        self,
        x: Float[Tensor, "B C h w"],
        t: Int[Tensor, " B"],
        prior: LatentPrior,
        prompts: Prompts,
        energy: Callable[[Tensor, Tensor, Tensor], Float[Tensor, " N"]],
        eps: Float[Tensor, "B C h w"] | None = None,
    ) -> Distilled:
        """
        Args:
            x: the encoded views, those of one object consecutive.
            t: a timestep per view, the same one for all views of an object.
            energy: (x̂0, x_t, ε), each [B C h w], to C, differentiable in the first two.
            eps: ε; drawn by default.
        """
        s, lam, x = self.guidance_scale, self.energy_weight, x.detach()
        path = prior.schedule
        w, sigma = path.weight(self.weighting_strategy, t, x), path.sigma(t, x)
        eps = torch.randn_like(x) if eps is None else eps

        x_t = path.add_noise(x, eps, t).requires_grad_(lam != 0)  # (1)
        with torch.set_grad_enabled(self.energy_gradient == "unet"):
            eps_phi = predict_noise(prior, x_t, t, prompts, s, self.cfg_rescale)
        eps_hat = eps_phi.guided.detach()  # (2)
        if lam == 0:
            return Distilled(w * (eps_hat - eps), x_t, eps, eps_hat, t)

        with torch.enable_grad():
            noise = DENOISED_FROM[self.denoised_from](eps_phi, eps)
            x0_hat = path.denoise(x_t, noise, t)  # (3)
            if self.denoised_clamp is not None:
                x0_hat = x0_hat.clamp(-self.denoised_clamp, self.denoised_clamp)
            C = energy(x0_hat, x_t, eps)
            g = torch.autograd.grad(C.sum(), x_t)[0]  # (4)
        if callable(lam):
            lam = lam(eps_hat - eps, g, path.alpha(t, x), sigma)
        grad = w * (eps_hat - lam * sigma * g - eps)  # (5)
        return Distilled(grad, x_t.detach(), eps, eps_hat, t, C.detach(), g, x0_hat.detach(), lam)
