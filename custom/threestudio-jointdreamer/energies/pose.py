"""Coherence by pose: over the views of an object, every pose should be as frequent as any other."""

import math
from dataclasses import dataclass
from typing import Annotated

import threestudio
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..priors.loading import has_part, load_prior
from ..priors.multiview import MultiviewPrior
from .base import Views
from .decoded import EmbeddingEnergy
from .pose_templates import TemplateConfig, Templates

TEMPLATE_KEY = "energy.template_model_name_or_path"


@threestudio.register("jsd-pose-energy")
class PoseEnergy(EmbeddingEnergy):
    """C = −V KL(p̄ ‖ u), p̄_k = 1/V Σ_i p(k | x̂0^i) (after RecDreamer, arXiv 2502.12640).

    p(k | x) = softmax_k(cos(f(x), f_k) / τ) compares an image embedding of the decoded x̂0 with
    those of K poses' templates, and u is uniform: a prior that shows mostly fronts gives p̄ a peak,
    which is evened out. RecDreamer raises log Σ_k p(k | x) / p̄_k of each view, with p̄ a moving
    average over the training; its gradient is this one's to first order in p̄ − u. Here all views
    around an object are seen at once, so their own average takes its place. RecDreamer also
    compares DINOv2's patches, and its templates are picked by hand.

    The templates are samples of a model for the prompt, drawn when it is first seen and kept in the
    user's cache as a picture, for every run with the same models, prompt and seed.

    Config, beside what `EmbeddingEnergy` says:
        template_model_name_or_path: a multi-view model, whose views at evenly spread azimuths are
            the poses. By default the 2D prior's samples are drawn, and those that look least alike
            are the poses: what it never shows, such as a back, is then no pose.
        text_encoder_name_or_path: of that model, where it does not read the 2D prior's.
        n_pose: K.
        template_samples: objects of the multi-view model, over which each pose's embedding is
            averaged; or pictures of the 2D prior to choose K from.
        template_guidance_scale, template_steps, template_seed: of the sampling (DDIM).
        temperature: τ.
        cache_dir: by default jointdreamer/pose_templates in the user's cache folder.
    """

    @dataclass
    class Config(EmbeddingEnergy.Config, TemplateConfig):
        template_model_name_or_path: str | None = None
        text_encoder_name_or_path: str | None = None
        temperature: Annotated[float, "(0, inf)"] = 0.1

    cfg: Config

    def configure(self) -> None:
        super().configure()
        multiview = None
        if name := self.cfg.template_model_name_or_path:
            half = self.cfg.half_precision_weights
            vae_from = name if has_part(name, "vae", TEMPLATE_KEY) else None
            prior = load_prior(name, self.device, half, vae_from=vae_from, key=TEMPLATE_KEY)
            multiview = MultiviewPrior(prior, f"{TEMPLATE_KEY}={name!r}")
        self.templates = Templates(self.cfg, multiview, self.embed)
        self._poses: dict[bytes, Float[Tensor, "K D"]] = {}

    def __call__(self, views: Views) -> Float[Tensor, " N"]:
        if views.n_view < 2:
            raise ValueError(
                "jsd-pose-energy looks at how poses are spread over the views of an object, but "
                "system.guidance.n_view=1: use 2 or more."
            )
        log_mean = self.log_probabilities(views).logsumexp(dim=1) - math.log(views.n_view)  # log p̄
        kl = (log_mean.exp() * (log_mean + math.log(self.cfg.n_pose))).sum(dim=1)
        return -views.n_view * kl

    def log_probabilities(self, views: Views) -> Float[Tensor, "N V K"]:
        """log p(k | x̂0^i)."""
        cosine = self.features(views) @ self.poses(views).mT
        return F.log_softmax(cosine / self.cfg.temperature, dim=-1)

    @torch.no_grad()
    def poses(self, views: Views) -> Float[Tensor, "N K D"]:
        """The unit embeddings of the templates for each object's prompt."""
        found = []
        for index, text in enumerate(views.text_embeddings.cpu()):
            key = text.numpy().tobytes()
            if key not in self._poses:
                encoder = self.cfg.text_encoder_name_or_path
                prompt = (texts[index, 0] for texts in views.texts(encoder=encoder))
                pictures = self.templates(*prompt, views.prior)
                seen = self.embed(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2])
                self._poses[key] = F.normalize(seen.mean(dim=0), dim=-1)
            found.append(self._poses[key])
        return torch.stack(found)
