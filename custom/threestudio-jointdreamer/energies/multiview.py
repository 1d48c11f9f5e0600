"""Coherence by a multi-view diffusion model: views should be what MVDream would make of them."""

from dataclasses import dataclass
from typing import Any

import threestudio
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..diffusion.latent_prior import resize
from ..diffusion.loading import find_local, load_prior
from ..diffusion.multiview import CAMERA_DIM, camera_condition, use_cross_view_attention
from ..diffusion.rescale import rescale_std
from ..diffusion.schedule import NoiseSchedule
from ..diffusion.step_schedule import StepSchedule
from .base import Energy, Views

NOISES = ("shared", "fresh")


@threestudio.register("jsd-multiview-energy")
class MultiviewEnergy(Energy):
    """C_MVS = −Σ_i ‖M_MVS(y, c)^i − x̂0^i‖² (JointDreamer, Jiang et al. 2024, arXiv 2407.12291).

    M_MVS denoises the V views of an object jointly, in one call without a graph, at the same t. It
    is a stock `UNet2DConditionModel` with a projected camera as class embedding; attention across
    views is set up here, for as many views as come.

    Config:
        pretrained_model_name_or_path: a folder with unet/ and scheduler/, or a hub name.
        vae_name_or_path: whose vae/ encodes the renders for `noise: fresh`. By default the folder
            above if it has a vae/, and else the 2D prior's.
        noise: `shared` denoises the 2D prior's own x_t, so that M_MVS and x̂0 are estimates from
            one noisy latent; latent size and noise schedule must be equal. `fresh` encodes the
            renders at this model's image size and adds noise of its own, as the authors do.
        guidance_scale: s in ε_∅ + s (ε_y − ε_∅), MVDream's convention, which is 1 more than
            jsd-guidance's: 1 is the plain conditional prediction, and costs half. May be a
            schedule.
        recon_std_rescale: how far M_MVS is rescaled to the standard deviation, over an object's
            views, of its unguided counterpart; as MVDream and the authors, 0.5.
        mask_with_opacity: residuals are multiplied with the rendered opacity, so that only the
            object is compared, and not the background.
        denoised_clamp: M_MVS is clamped to ±this; helps with weak priors.
        half_precision_weights: fp16 on a GPU.
        compile: torch.compile the model; the first step then takes a minute or so.
    """

    @dataclass
    class Config(Energy.Config):
        pretrained_model_name_or_path: str = ""
        vae_name_or_path: str | None = None
        noise: str = "fresh"
        guidance_scale: Any = 50.0
        recon_std_rescale: float = 0.5
        mask_with_opacity: bool = False
        denoised_clamp: float | None = None
        half_precision_weights: bool = True
        compile: bool = False

    cfg: Config

    def configure(self) -> None:
        if self.cfg.noise not in NOISES:
            raise ValueError(f"energy.noise={self.cfg.noise!r}: use one of {', '.join(NOISES)}.")
        self.guidance_scale_schedule = StepSchedule(
            self.cfg.guidance_scale, "energy.guidance_scale"
        )
        name = self.cfg.pretrained_model_name_or_path
        self.model = load_prior(
            name,
            self.device,
            self.cfg.half_precision_weights,
            vae_from=self._vae_source(),
            key="energy.pretrained_model_name_or_path",
        )
        config = self.model.unet.config
        if (config.class_embed_type, config.projection_class_embeddings_input_dim) != (
            "projection",
            CAMERA_DIM,
        ):
            raise ValueError(
                f"energy.pretrained_model_name_or_path={name!r} holds no multi-view UNet: its "
                f"config.json needs class_embed_type=projection with {CAMERA_DIM} inputs, not "
                f"{config.class_embed_type} with {config.projection_class_embeddings_input_dim}."
            )
        if self.cfg.compile:
            self.model.compile()
        self._n_view: int | None = None
        self._schedule: NoiseSchedule | None = None
        self.update_step(0, 0)

    def _vae_source(self) -> str | None:
        if self.cfg.noise == "shared":
            return None
        if self.cfg.vae_name_or_path:
            return self.cfg.vae_name_or_path
        folder = find_local(self.cfg.pretrained_model_name_or_path)
        return str(folder) if folder and (folder / "vae").is_dir() else None

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        self.guidance_scale = self.guidance_scale_schedule(epoch, global_step)

    def __call__(self, views: Views) -> Float[Tensor, " N"]:
        residual = self.predict(views) - views.denoised
        if self.cfg.mask_with_opacity:
            residual = residual * self._mask(views)
        return -residual.square().sum(dim=(1, 2, 3, 4))

    @torch.no_grad()
    def predict(self, views: Views) -> Float[Tensor, "N V C h w"]:
        """M_MVS(y, c), at the size of `views.denoised`."""
        self._fit(views)
        t = views.t.repeat_interleave(views.n_view)
        if self.cfg.noise == "shared":
            x_t = views.noisy.flatten(0, 1)
        else:
            x = self._encode(views)
            x_t = self.model.schedule.add_noise(x, torch.randn_like(x), t)
        x0 = self._denoise(x_t, t, views)
        if self.cfg.denoised_clamp is not None:
            x0 = x0.clamp(-self.cfg.denoised_clamp, self.cfg.denoised_clamp)
        x0 = resize(x0, views.denoised.shape[-1])
        return x0.unflatten(0, (views.n_object, views.n_view))

    def _denoise(
        self, x_t: Float[Tensor, "NV C h w"], t: Int[Tensor, " NV"], views: Views
    ) -> Float[Tensor, "NV C h w"]:
        s = self.guidance_scale
        prompts = [views.text_embeddings, views.uncond_text_embeddings][: 1 if s == 1 else 2]
        camera = camera_condition(views.c2w.flatten(0, 1))
        eps = self.model.predict_noise(
            torch.cat([x_t] * len(prompts)),
            torch.cat([t] * len(prompts)),
            torch.cat(prompts).repeat_interleave(views.n_view, dim=0),
            class_labels=torch.cat([camera] * len(prompts)),
        )
        eps_text, *eps_uncond = eps.chunk(len(prompts))
        x0_text = self.model.schedule.denoise(x_t, eps_text, t)
        if not eps_uncond:
            return x0_text
        eps_guided = eps_uncond[0] + s * (eps_text - eps_uncond[0])
        x0 = self.model.schedule.denoise(x_t, eps_guided, t)
        by_object = (views.n_object, views.n_view)
        return rescale_std(
            x0.unflatten(0, by_object), x0_text.unflatten(0, by_object), self.cfg.recon_std_rescale
        ).flatten(0, 1)

    def _encode(self, views: Views) -> Float[Tensor, "NV C h w"]:
        same_size = views.latents.shape[-1] == self.model.latent_size
        if self.model.vae is None and same_size:
            return views.latents.flatten(0, 1)
        if views.rgb is None:
            raise ValueError(
                "energy.noise='fresh' encodes renders of its own, but with rgb_as_latents there "
                "are none: set energy.noise=shared."
            )
        rgb = views.rgb.flatten(0, 1).permute(0, 3, 1, 2)
        encode = views.encode if self.model.vae is None else self.model.encode
        return encode(rgb, self.model.latent_size)

    def _mask(self, views: Views) -> Float[Tensor, "N V 1 h w"]:
        if views.opacity is None:
            raise ValueError(
                "energy.mask_with_opacity=true, but the system does not pass opacity=[B H W 1] to "
                "the guidance: pass it, or set energy.mask_with_opacity=false."
            )
        opacity = views.opacity.flatten(0, 1).permute(0, 3, 1, 2)
        mask = resize(opacity, views.denoised.shape[-1])
        return mask.unflatten(0, (views.n_object, views.n_view))

    def _fit(self, views: Views) -> None:
        """Sets the UNet up for V views and checks, once, that the 2D prior's x_t and t suit it."""
        if views.n_view != self._n_view:
            use_cross_view_attention(self.model.unet, views.n_view)
            self._n_view = views.n_view
        if views.schedule is self._schedule:
            return
        ours, theirs = self.model.schedule, views.schedule
        if ours.num_train_timesteps != theirs.num_train_timesteps:
            raise ValueError(
                f"energy.pretrained_model_name_or_path={self.cfg.pretrained_model_name_or_path!r} "
                f"counts {ours.num_train_timesteps} timesteps, the 2D prior "
                f"{theirs.num_train_timesteps}: use models of one family."
            )
        if self.cfg.noise == "shared":
            size = (self.model.latent_channels, *[self.model.latent_size] * 2)
            if size != tuple(views.noisy.shape[2:]):
                raise ValueError(
                    f"energy.noise='shared' needs latents of one size, but this model's are {size} "
                    f"and the 2D prior's {tuple(views.noisy.shape[2:])}: set energy.noise=fresh."
                )
            if not torch.allclose(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-3):
                raise ValueError(
                    "energy.noise='shared' needs one noise schedule, but this model's "
                    "alphas_cumprod differ from the 2D prior's: set energy.noise=fresh."
                )
        self._schedule = theirs
