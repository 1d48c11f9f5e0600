"""Classifier-free guidance: one UNet call for all prompts of a batch, then the guided noise."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..priors.latent_prior import LatentPrior
from ..priors.rescale import rescale_std


@dataclass
class Prompts:
    """The text embeddings that one batch of views is denoised with.

    Attributes:
        text: of the prompt, view-dependent where so configured.
        uncond: of the empty or negative prompt.
        negative: Perp-Neg's K negative prompts per view (Armandpour et al. 2023, arXiv 2304.04968).
        negative_weights: Perp-Neg's weights, not positive.
    """

    text: Float[Tensor, "B L D"]
    uncond: Float[Tensor, "B L D"]
    negative: Float[Tensor, "B K L D"] | None = None
    negative_weights: Float[Tensor, "B K"] | None = None

    @classmethod
    def for_views(
        cls,
        prompt_utils,
        elevation: Float[Tensor, " B"],
        azimuth: Float[Tensor, " B"],
        camera_distances: Float[Tensor, " B"],
        view_dependent: bool,
    ) -> "Prompts":
        """Asks a threestudio `PromptProcessorOutput` for the prompts of these cameras."""
        cameras = (elevation, azimuth, camera_distances, view_dependent)
        if not prompt_utils.use_perp_neg:
            return cls(*prompt_utils.get_text_embeddings(*cameras).chunk(2))
        if not view_dependent:
            raise ValueError(
                "prompt_processor.use_perp_neg=true needs view-dependent prompts: "
                "set system.guidance.view_dependent_prompting=true."
            )
        embeddings, weights = prompt_utils.get_text_embeddings_perp_neg(*cameras)
        batch = len(elevation)
        text, uncond, negative = embeddings.split([batch, batch, len(embeddings) - 2 * batch])
        return cls(text, uncond, negative.unflatten(0, (batch, -1)), weights)

    def first(self, n: int) -> "Prompts":
        """The prompts of the first n views."""
        if self.negative is None:
            return Prompts(self.text[:n], self.uncond[:n])
        return Prompts(self.text[:n], self.uncond[:n], self.negative[:n], self.negative_weights[:n])


@dataclass
class NoisePrediction:
    """ε_φ for the same x_t under different prompts."""

    text: Float[Tensor, "B C h w"]
    uncond: Float[Tensor, "B C h w"]
    guided: Float[Tensor, "B C h w"]


def predict_noise(
    prior: LatentPrior,
    x_t: Float[Tensor, "B C h w"],
    t: Int[Tensor, " B"],
    prompts: Prompts,
    guidance_scale: float,
    cfg_rescale: float = 0.0,
) -> NoisePrediction:
    """ε_φ(x_t; y, t), ε_φ(x_t; ∅, t) and the guided ε̂, from one call of the UNet.

    Without Perp-Neg ε̂ = (1 + s) ε_y − s ε_∅, the convention of DreamFusion and JointDreamer. With
    it, as in threestudio, ε̂ = ε_∅ + s (e_y + Σ_k w_k e_k⊥), with e = ε − ε_∅ and e_k⊥ the part of
    e_k that is perpendicular to e_y; that s is 1 more than the other one.
    """
    batch = len(x_t)
    if prompts.negative is None:
        eps = prior.predict_noise(
            torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([prompts.text, prompts.uncond])
        )
        eps_text, eps_uncond = eps.chunk(2)
        eps_hat = eps_text + guidance_scale * (eps_text - eps_uncond)
    else:
        per_view = prompts.negative.shape[1]
        eps = prior.predict_noise(
            torch.cat([x_t, x_t, x_t.repeat_interleave(per_view, dim=0)]),
            torch.cat([t, t, t.repeat_interleave(per_view)]),
            torch.cat([prompts.text, prompts.uncond, prompts.negative.flatten(0, 1)]),
        )
        eps_text, eps_uncond, eps_negative = eps.split([batch, batch, batch * per_view])
        e_text = eps_text - eps_uncond
        e_hat = e_text
        for k in range(per_view):
            e_k = eps_negative[k::per_view] - eps_uncond
            weight = prompts.negative_weights[:, k].view(-1, 1, 1, 1)
            e_hat = e_hat + weight * perpendicular_part(e_k, e_text)
        eps_hat = eps_uncond + guidance_scale * e_hat
    return NoisePrediction(
        text=eps_text, uncond=eps_uncond, guided=rescale_std(eps_hat, eps_text, cfg_rescale)
    )


def perpendicular_part(
    x: Float[Tensor, "B C h w"], y: Float[Tensor, "B C h w"]
) -> Float[Tensor, "B C h w"]:
    """x − (x·y / y·y) y, item by item; x where y is 0."""
    axes = (1, 2, 3)
    along = (x * y).sum(axes, keepdim=True) / (y * y).sum(axes, keepdim=True).clamp_min(1e-6)
    return x - along * y
