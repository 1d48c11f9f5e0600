"""The gradient of Joint Score Distillation (JointDreamer, Jiang et al. 2024, arXiv 2407.12291).

Score Distillation Sampling (DreamFusion, Poole et al. 2022, arXiv 2209.14988) distils every
rendered view on its own. JSD distils the joint distribution of the V views of an object,
p(x^1..V) ∝ exp(C(x^1..V, c^1..V)) Π_i p(x^i), with an energy C that is large when the views, seen
by the cameras c, fit together. With σ_t = √(1 − ᾱ_t), one t per object, an independent ε^i per
view, a guidance scale s and an energy weight λ:

    (1)  x_t^i   = √ᾱ_t x^i + σ_t ε^i
    (2)  ε̂^i     = (1 + s) ε_φ(x_t^i; y, t) − s ε_φ(x_t^i; ∅, t)
    (3)  x̂0^i    = (x_t^i − σ_t ε_φ(x_t^i; ∅, t)) / √ᾱ_t
    (4)  g^i     = ∂C(x̂0^1..V, c^1..V) / ∂x_t^i
    (5)  ∂L/∂x^i = w(t) (ε̂^i − λ σ_t g^i − ε^i)

The score is −ε/σ_t, so ∂C/∂x_t added to the joint score is −σ_t ∂C/∂x_t added to the noise: the σ_t
of (5). Sources: (1) is DDPM's forward process and (3) its inverse (Ho et al. 2020, eqs. 4 and 15),
(2) is classifier-free guidance in the convention of DreamFusion and JointDreamer, where s = 0 is
the plain text-conditioned prediction; (4) and (5) are JointDreamer's Joint Score Distillation. With
C ≡ 0, (5) is DreamFusion's SDS, to the last bit.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..energies.base import Energy, Views
from ..priors.latent_prior import LatentPrior
from .classifier_free import Prompts, predict_noise

WEIGHTINGS = {  # w(t), from ᾱ_t
    "sds": lambda alpha_bar: 1 - alpha_bar,
    "uniform": torch.ones_like,
    "fantasia3d": lambda alpha_bar: alpha_bar.sqrt() * (1 - alpha_bar),
}


@dataclass
class Distilled:
    """The gradient, and what it was made of.

    Attributes:
        grad: ∂L/∂x.
        x_t, eps_hat, t: of (1) and (2).
        energy: C, one per object; None where λ = 0.
        g: of (4); None where λ = 0.
        views: what the energy saw; None where λ = 0.
    """

    grad: Float[Tensor, "B C h w"]
    x_t: Float[Tensor, "B C h w"]
    eps_hat: Float[Tensor, "B C h w"]
    t: Int[Tensor, " B"]
    energy: Float[Tensor, " N"] | None = None
    g: Float[Tensor, "B C h w"] | None = None
    views: Views | None = None


def joint_score_distillation(
    x: Float[Tensor, "B C h w"],
    t: Int[Tensor, " B"],
    prior: LatentPrior,
    prompts: Prompts,
    energy: Energy,
    make_views: Callable[..., Views],
    guidance_scale: float,
    energy_weight: float,
    weighting_strategy: str = "sds",
    denoised_from: str = "uncond",
    energy_gradient: str = "denoised",
    denoised_clamp: float | None = None,
    cfg_rescale: float = 0.0,
) -> Distilled:
    """∂L/∂x of equation (5), by one call of the UNet.

    Args:
        x: the encoded views, those of one object consecutive.
        t: a timestep per view, the same one for all views of an object.
        make_views: makes `Views` of x̂0, x, x_t and ε.
        guidance_scale: s.
        energy_weight: λ; where it is 0 the energy is not evaluated and no graph is built.
        weighting_strategy: w(t), a key of `WEIGHTINGS`.
        denoised_from: the noise in (3): `uncond` as written there, `text`, or `cfg` for ε̂.
        energy_gradient: `denoised` takes the noise in (3) as a constant, so that
            ∂x̂0/∂x_t = 1/√ᾱ_t; `unet` differentiates it too.
        denoised_clamp: clamps x̂0 to ±this before the energy sees it.
        cfg_rescale: see `predict_noise`.
    """
    s, lam, x = guidance_scale, energy_weight, x.detach()
    alpha_bar, sigma = prior.schedule.alpha_bar(t, x), prior.schedule.sigma(t, x)
    w = WEIGHTINGS[weighting_strategy](alpha_bar)
    eps = torch.randn_like(x)

    x_t = (alpha_bar.sqrt() * x + sigma * eps).requires_grad_(lam != 0)  # (1)
    with torch.set_grad_enabled(energy_gradient == "unet"):
        eps_phi = predict_noise(prior, x_t, t, prompts, s, cfg_rescale)
    eps_hat = eps_phi.cfg.detach()  # (2)
    if lam == 0:
        return Distilled(w * (eps_hat - eps), x_t, eps_hat, t)

    with torch.enable_grad():
        x0_hat = (x_t - sigma * getattr(eps_phi, denoised_from)) / alpha_bar.sqrt()  # (3)
        if denoised_clamp is not None:
            x0_hat = x0_hat.clamp(-denoised_clamp, denoised_clamp)
        views = make_views(x0_hat, x, x_t.detach(), eps)
        C = _checked(energy(views), energy, views)
        g = torch.autograd.grad(C.sum(), x_t)[0]  # (4)
    grad = w * (eps_hat - lam * sigma * g - eps)  # (5)
    return Distilled(grad, x_t.detach(), eps_hat, t, C.detach(), g, views)


def _checked(C: Tensor, energy: Energy, views: Views) -> Float[Tensor, " N"]:
    """Catches what is easily got wrong in an energy of one's own."""
    name = type(energy).__name__
    if not isinstance(C, Tensor) or C.shape != (views.n_object,):
        shape = tuple(C.shape) if isinstance(C, Tensor) else type(C).__name__
        raise ValueError(
            f"{name} returned {shape} for {views.n_object} objects: return one energy per object, "
            f"a tensor of shape ({views.n_object},)."
        )
    if not C.requires_grad:
        raise ValueError(
            f"{name} returned an energy without a gradient in views.denoised: compute it from "
            "views.denoised, not detached and not under torch.no_grad()."
        )
    return C
