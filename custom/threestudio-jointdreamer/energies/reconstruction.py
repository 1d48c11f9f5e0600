"""What the energies share that compare x̂0 with another model's estimate of the same views."""

from dataclasses import dataclass, replace
from math import ceil
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..priors.gradient_range import within_half_range
from ..priors.latent_prior import LatentPrior, resize
from ..priors.rescale import rescale_std
from ..step_schedule import Scheduled, StepSchedule
from .base import Energy, Views, as_pictures

KEY = "energy.pretrained_model_name_or_path"


class ReconstructionEnergy(Energy):
    """C = −Σ_i ‖M^i − x̂0^i‖² for a latent diffusion model M that denoises the views.

    M denoises at the 2D prior's t, or with another schedule where that is as noisy. If its latents
    are of another kind than the 2D prior's, x̂0 is compared as M's VAE encodes the picture that the
    prior decodes it to, both at M's image size; the gradient goes back through both.

    A subclass loads the model and says what it predicts (`_load`, `predict`).

    Config:
        pretrained_model_name_or_path: a model's folder or hub name.
        vae_name_or_path: whose VAE encodes the renders, where not the model's own.
        noise: `shared` denoises the 2D prior's own x_t, so that M and x̂0 are estimates from one
            noisy latent; latents must be of one kind and size. `fresh` encodes the renders
            at this model's image size and adds noise of its own; rendered latents are decoded
            for it first.
        guidance_scale: s in ε_∅ + s (ε_y − ε_∅), which is 1 more than jsd-guidance's: 1 is the
            plain conditional prediction, and costs half. May be a schedule.
        recon_std_rescale: how far M is rescaled to the standard deviation, over an object's views,
            of its unguided counterpart.
        mask_with_opacity: true: residuals are multiplied with the rendered opacity m, so that only
            the object is compared, and not the background; the gradient has the weight m².
            `noisy`, as in the authors' code: x_t is multiplied with m before x̂0 is estimated from
            it, and M is not masked; the gradient has the weight m. false: no mask.
        denoised_clamp: M is clamped to ±this; helps with weak priors.
        half_precision_weights: fp16 on a GPU.
        compile: torch.compile the UNet's transformer blocks, in about half a minute.
    """

    @dataclass
    class Config(Energy.Config):
        pretrained_model_name_or_path: str = ""
        vae_name_or_path: str | None = None
        noise: Annotated[str, ("shared", "fresh")] = "fresh"
        guidance_scale: Scheduled = 1.0
        recon_std_rescale: Annotated[float, "[0, 1]"] = 0.0
        mask_with_opacity: Annotated[Any, (False, True, "noisy")] = False
        denoised_clamp: Annotated[float | None, "(0, inf)"] = None
        half_precision_weights: bool = True
        compile: bool = False

    cfg: Config
    model: LatentPrior

    def configure(self) -> None:
        self.guidance_scale_schedule = StepSchedule(
            self.cfg.guidance_scale, "energy.guidance_scale"
        )
        self.model = self._load()
        if self.cfg.compile:
            self.model.compile()
        self._checked: LatentPrior | None = None  # the 2D prior that the model fits to
        self.update_step(0, 0)

    def _load(self) -> LatentPrior:
        raise NotImplementedError

    @property
    def priors(self) -> list[LatentPrior]:
        return [self.model]

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        self.guidance_scale = self.guidance_scale_schedule(epoch, global_step)

    def __call__(self, views: Views) -> Float[Tensor, " N"]:
        mask = self.cfg.mask_with_opacity
        if mask == "noisy":
            alpha = views.prior.schedule.alpha(views.t, views.denoised)
            x0 = views.denoised - (1 - self._mask(views)) * views.noisy / alpha
            views = replace(views, denoised=x0)
        views = self._in_own_latents(views)
        residual = self.predict(views) - views.denoised
        if mask is True:
            residual = residual * self._mask(views)
        return -residual.square().sum(dim=(1, 2, 3, 4))

    def predict(self, views: Views) -> Float[Tensor, "N V C h w"]:
        """M, without a graph, at the size of `views.denoised`, which is in M's kind of latents."""
        raise NotImplementedError

    def draw(self, views: Views) -> Float[Tensor, "N V H W 3"]:
        """M as pictures."""
        prior = self.model if self._has_own_latents(views) else views.prior
        return as_pictures(self.predict(self._in_own_latents(views)), prior)

    def _has_own_latents(self, views: Views) -> bool:
        """A model without a VAE has the 2D prior's latents."""
        return self.model.vae is not None and self.model.latent_space != views.prior.latent_space

    def _in_own_latents(self, views: Views) -> Views:
        """Views whose x̂0 is in the latents of this model."""
        if not self._has_own_latents(views):
            return views
        prior, model = views.prior, self.model
        size = ceil(model.image_size / prior.downsampling)

        def translate(x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B c H W"]:
            return model.encode(prior.decode(x, size), model.latent_size, sample=False)

        x0 = within_half_range(translate, views.denoised.flatten(0, 1))
        return replace(views, denoised=x0.unflatten(0, views.denoised.shape[:2]))

    def _t(self, views: Views) -> Int[Tensor, " N"]:
        """Where this model's schedule is as noisy as the views."""
        return self.model.schedule.nearest(views.prior.schedule, views.t)

    def _noisy(self, views: Views) -> Float[Tensor, "N V C h w"]:
        """x_t for this model, at its own latent size."""
        if self.cfg.noise == "shared":
            return self.model.schedule.restate(views.noisy, views.t, views.prior.schedule)
        x = self._encode(views)
        t = self._t(views).repeat_interleave(views.n_view)
        x_t = self.model.schedule.add_noise(x, torch.randn_like(x), t)
        return x_t.unflatten(0, (views.n_object, views.n_view))

    def _reconstruct(
        self,
        x_t: Float[Tensor, "N K C h w"],
        t: Int[Tensor, " N"],
        eps_cond: Float[Tensor, "N K C h w"],
        eps_uncond: Float[Tensor, "N K C h w"] | None,
        size: int,
    ) -> Float[Tensor, "N K C size size"]:
        """The guided, rescaled and clamped x̂0 of K views of each object; unguided without ε_∅."""
        denoise = self.model.schedule.denoise  # takes one t per object and broadcasts it
        x0 = denoise(x_t, eps_cond, t)
        if eps_uncond is not None:
            eps_guided = eps_uncond + self.guidance_scale * (eps_cond - eps_uncond)
            x0 = rescale_std(denoise(x_t, eps_guided, t), x0, self.cfg.recon_std_rescale)
        if self.cfg.denoised_clamp is not None:
            x0 = x0.clamp(-self.cfg.denoised_clamp, self.cfg.denoised_clamp)
        return resize(x0.flatten(0, 1), size).unflatten(0, x0.shape[:2])

    def _encode(self, views: Views) -> Float[Tensor, "NV C h w"]:
        same_size = views.latents.shape[-1] == self.model.latent_size
        if self.model.vae is None and same_size:
            return views.latents.flatten(0, 1)
        rgb = views.pictures().flatten(0, 1).permute(0, 3, 1, 2)
        encode = (views.prior if self.model.vae is None else self.model).encode
        return encode(rgb, self.model.latent_size)

    def _mask(self, views: Views) -> Float[Tensor, "N V 1 h w"]:
        if views.opacity is None:
            raise ValueError(
                f"energy.mask_with_opacity={self.cfg.mask_with_opacity}, but the system does not "
                "pass opacity=[B H W 1] to the guidance: pass it, or set "
                "energy.mask_with_opacity=false."
            )
        opacity = views.opacity.flatten(0, 1).permute(0, 3, 1, 2)
        mask = resize(opacity, views.denoised.shape[-1])
        return mask.unflatten(0, (views.n_object, views.n_view))

    def _fit(self, views: Views) -> None:
        """Checks, once, that the 2D prior's latents and x_t suit the model."""
        if views.prior is self._checked:
            return
        if self.cfg.noise == "shared":
            size = (self.model.latent_channels, *[self.model.latent_size] * 2)
            if size != tuple(views.noisy.shape[2:]):
                raise ValueError(
                    f"energy.noise='shared' needs latents of one size, but this model's are {size} "
                    f"and the 2D prior's {tuple(views.noisy.shape[2:])}: set energy.noise=fresh."
                )
        channels = views.denoised.shape[2]
        if self.model.latent_channels != channels:
            raise ValueError(
                f"{KEY}={self.cfg.pretrained_model_name_or_path!r} has latents of "
                f"{self.model.latent_channels} channels, the 2D prior of {channels}: set "
                "energy.vae_name_or_path to the model's own VAE, or use models of one family."
            )
        self._checked = views.prior
