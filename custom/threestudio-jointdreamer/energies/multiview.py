"""Coherence by a multi-view diffusion model: views should be what MVDream would make of them."""

from dataclasses import dataclass
from typing import Annotated

import threestudio
import torch
from jaxtyping import Float
from torch import Tensor

from ..priors.latent_prior import LatentPrior
from ..priors.loading import has_part, load_prior
from ..priors.multiview import MultiviewPrior
from ..step_schedule import Scheduled
from .base import Views
from .reconstruction import KEY, ReconstructionEnergy


@threestudio.register("jsd-multiview-energy")
class MultiviewEnergy(ReconstructionEnergy):
    """C_MVS = −Σ_i ‖M_MVS(y, c)^i − x̂0^i‖² (JointDreamer, Jiang et al. 2024, arXiv 2407.12291).

    M_MVS denoises the V views of an object jointly, in one call without a graph, at the same t. It
    is a stock `UNet2DConditionModel` with a projected camera as class embedding; attention across
    views is set up here, for as many views as come.

    Config, beside what `ReconstructionEnergy` says:
        pretrained_model_name_or_path: a folder with unet/ and scheduler/, or a hub name.
        vae_name_or_path: whose vae/ encodes the renders for `noise: fresh`. By default the folder
            above if it has a vae/, and else the 2D prior's.
        guidance_scale, recon_std_rescale: 50 and 0.5, as MVDream and the authors.
        view_dependent_prompting: it sees the prompts that the 2D prior sees, with "front view" and
            the like, as in the authors' code. By default it sees the plain prompt: it was trained
            with that, and knows the view by its camera.
    """

    @dataclass
    class Config(ReconstructionEnergy.Config):
        guidance_scale: Scheduled = 50.0
        recon_std_rescale: Annotated[float, "[0, 1]"] = 0.5
        view_dependent_prompting: bool = False

    cfg: Config

    def _load(self) -> LatentPrior:
        name = self.cfg.pretrained_model_name_or_path
        model = load_prior(
            name,
            self.device,
            self.cfg.half_precision_weights,
            vae_from=self._vae_source(),
            key=KEY,
        )
        self.multiview = MultiviewPrior(model, f"{KEY}={name!r}")
        return model

    def _vae_source(self) -> str | None:
        if self.cfg.noise == "shared":
            return None
        if self.cfg.vae_name_or_path:
            return self.cfg.vae_name_or_path
        name = self.cfg.pretrained_model_name_or_path
        return name if has_part(name, "vae", KEY) else None

    @torch.no_grad()
    def predict(self, views: Views) -> Float[Tensor, "N V C h w"]:
        """M_MVS(y, c), at the size of `views.denoised`."""
        self._fit(views)
        x_t = self._noisy(views)
        eps = self._predict_noise(x_t, views)
        return self._reconstruct(x_t, views.t, *eps, views.denoised.shape[-1])

    def _predict_noise(
        self, x_t: Float[Tensor, "N V C h w"], views: Views
    ) -> tuple[Float[Tensor, "N V C h w"], Float[Tensor, "N V C h w"] | None]:
        """ε for the prompt, and for the empty one where the guidance needs it, in one call."""
        prompts = self._prompts(views)[: 1 if self.guidance_scale == 1 else 2]
        repeat = len(prompts)
        eps = self.multiview.predict_noise(
            torch.cat([x_t] * repeat),
            torch.cat([views.t] * repeat),
            torch.cat(prompts),
            torch.cat([views.c2w] * repeat),
        )
        text, *uncond = eps.chunk(repeat)
        return text, (uncond[0] if uncond else None)

    def _prompts(self, views: Views) -> tuple[Float[Tensor, "N V L D"], Float[Tensor, "N V L D"]]:
        """The embeddings of the prompt and of the empty or negative one, for every view."""
        if self.cfg.view_dependent_prompting:
            return views.text_embeddings_of_views, views.uncond_text_embeddings_of_views
        plain = views.text_embeddings, views.uncond_text_embeddings
        text, uncond = (x[:, None].expand(-1, views.n_view, -1, -1) for x in plain)
        return text, uncond
