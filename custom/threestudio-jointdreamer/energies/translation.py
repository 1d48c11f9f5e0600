"""Coherence by an image-to-image model: views should be what it makes of one of them."""

from dataclasses import dataclass, replace
from typing import Annotated

import threestudio
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..priors import wonder3d, zero123  # noqa: F401  (makes them known)
from ..priors.image_prior import Cameras, ImagePriorOptions, load_image_prior
from ..priors.latent_prior import LatentPrior, resize
from ..priors.sampling import ddim
from ..step_schedule import Scheduled, ScheduledFraction, StepSchedule
from .base import Views
from .reconstruction import KEY, ReconstructionEnergy
from .reference import REFERENCES, reference_first, reorder


@threestudio.register("jsd-translation-energy")
class TranslationEnergy(ReconstructionEnergy):
    """C_I2I = −Σ_{i≠ref} ‖M_I2I(x^ref, Δ(c^i, c^ref)) − x̂0^i‖² (JointDreamer, arXiv 2407.12291).

    M_I2I makes the other views of an object, given the render of one of them and the relative
    cameras, without a graph: by default it denoises them in one call, at the same t. Wonder3D and
    Zero-1-to-3 are known, and told apart by their own config.json; others can be added
    (`register_image_prior`).

    Config, beside what `ReconstructionEnergy` says:
        pretrained_model_name_or_path: a folder with unet/, vae/, image_encoder/ and scheduler/
            (and cc_projection/ for Zero-1-to-3), a hub name, or Zero-1-to-3's original file.
        vae_name_or_path: another model whose VAE is used.
        guidance_scale: 3, as both models' authors.
        white_background: the renders are laid on white, by their opacity, before the model sees
            them, since both models were trained on objects before white. x̂0 keeps its own
            background, so leave `mask_with_opacity` on with it.
        reference: which view the others are made from: the `first`; the most `frontal` one, whose
            azimuth is nearest to 0; or a `random` one, drawn per object and step.
        strength: how noisy the views are that it starts from, in (0, 1], as diffusers' image to
            image: from 1 the reference alone says what comes out, and the less, the more of what
            the views show now. May be a schedule. By default they are as noisy as jsd-guidance's,
            so that late in training a face on a back is a face that it keeps.
        num_inference_steps: DDIM steps (Song et al. 2020, arXiv 2010.02502, η = 0) from there to
            no noise, each one call; 1 is the one-step estimate, which is blurred by much noise.
        cross_domain: Wonder3D only: predict normals with the colours, see `Wonder3D`.
        azimuth_tolerance, elevation_tolerance: Wonder3D only: degrees that a view may be away
            from its six fixed ones; others are refused.
    """

    @dataclass
    class Config(ReconstructionEnergy.Config):
        guidance_scale: Scheduled = 3.0
        mask_with_opacity: bool = True
        white_background: bool = True
        reference: Annotated[str, REFERENCES] = "first"
        strength: ScheduledFraction | None = None
        num_inference_steps: Annotated[int, "[1, inf)"] = 1
        cross_domain: bool = False
        azimuth_tolerance: Annotated[float, "[0, inf)"] = 5.0
        elevation_tolerance: Annotated[float, "[0, inf)"] = 15.0

    cfg: Config

    def _load(self) -> LatentPrior:
        self.strength_schedule = None
        if self.cfg.strength is not None:
            self.strength_schedule = StepSchedule(self.cfg.strength, "energy.strength")
        self.image_prior = load_image_prior(
            self.cfg.pretrained_model_name_or_path,
            self.device,
            self.cfg.half_precision_weights,
            self.cfg.vae_name_or_path,
            KEY,
            ImagePriorOptions(
                cross_domain=self.cfg.cross_domain,
                azimuth_tolerance=self.cfg.azimuth_tolerance,
                elevation_tolerance=self.cfg.elevation_tolerance,
            ),
        )
        return self.image_prior.prior

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        super().update_step(epoch, global_step, on_load_weights)
        if self.strength_schedule is not None:
            self.strength: float = self.strength_schedule(epoch, global_step)

    @torch.no_grad()
    def predict(self, views: Views) -> Float[Tensor, "N V C h w"]:
        """M_I2I, at the size of `views.denoised`; at the reference view x̂0 as it is."""
        if views.rgb is None:
            raise ValueError(
                "jsd-translation-energy looks at a render, but with rgb_as_latents there are "
                "none: let the system render colours, or use another energy_type."
            )
        if views.n_view < 2:
            raise ValueError(
                "jsd-translation-energy predicts views from another one, but "
                "system.guidance.n_view=1: use 2 or more views per object."
            )
        self._fit(views)
        if self.cfg.white_background:
            views = self._before_white(views)
        order = reference_first(self.cfg.reference, views)
        made = 0 if self.image_prior.joint else 1  # the first view that the model makes
        poses = torch.stack([views.elevation, views.azimuth, views.camera_distances], dim=-1)
        poses = reorder(poses, order)
        cameras = Cameras(views=poses[:, made:], reference=poses[:, :1])
        seen = self.image_prior.look_at(reorder(views.rgb, order)[:, 0].permute(0, 3, 1, 2))

        def predict_noise(x_t: Tensor, t: Int[Tensor, " N"]) -> tuple[Tensor, Tensor | None]:
            guided = self.guidance_scale != 1
            return self.image_prior.predict_noise(x_t, t, seen, cameras, guided)

        x_t, t = self._start(views)
        reference = reorder(views.denoised.detach(), order)[:, :1]

        def denoise(x_t: Tensor, t: Int[Tensor, " N"]) -> Tensor:
            return self._reconstruct(x_t, t, *predict_noise(x_t, t), x_t.shape[-1])

        x_t = reorder(x_t, order)[:, made:]
        predicted = ddim(self.model.schedule, denoise, x_t, t, self.cfg.num_inference_steps)
        predicted = resize(predicted.flatten(0, 1), reference.shape[-1]).unflatten(0, x_t.shape[:2])
        x0 = torch.cat([reference, predicted[:, 1 - made :]], dim=1)
        return reorder(x0, order.argsort(dim=1))

    def _start(self, views: Views) -> tuple[Float[Tensor, "N V C h w"], Int[Tensor, " N"]]:
        """The noisy views that the model starts from, and their t."""
        if self.strength_schedule is None:
            return self._noisy(views), self._t(views)
        schedule = self.model.schedule
        t = round(self.strength * schedule.num_train_timesteps) - 1
        if t < 0:
            raise ValueError(
                f"energy.strength={self.strength:g} is less than one of the model's "
                f"{schedule.num_train_timesteps} timesteps: use more, up to 1, or null."
            )
        t = torch.full_like(views.t, t)
        shared = self.cfg.noise == "shared"
        x = views.latents if shared else self._encode(views).unflatten(0, views.denoised.shape[:2])
        return schedule.add_noise(x, torch.randn_like(x), t), t

    def _before_white(self, views: Views) -> Views:
        if views.opacity is None:
            raise ValueError(
                "energy.white_background=true, but the system does not pass opacity=[B H W 1] to "
                "the guidance: pass it, or give the scene a white background and set "
                "energy.white_background=false."
            )
        return replace(views, rgb=views.rgb * views.opacity + 1 - views.opacity)
