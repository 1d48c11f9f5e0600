"""Coherence by pose: over the views of an object, every pose should be as frequent as any other."""

import math
from dataclasses import dataclass
from typing import Annotated

import threestudio
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..priors.image_embedding import load_image_embedding
from ..priors.loading import has_part, load_prior
from ..priors.multiview import MultiviewPrior
from .base import Views
from .decoded import DecodedEnergy
from .pose_templates import Templates

TEMPLATE_KEY = "energy.template_model_name_or_path"


@threestudio.register("jsd-pose-energy")
class PoseEnergy(DecodedEnergy):
    """C = −V KL(p̄ ‖ u), p̄_k = 1/V Σ_i p(k | x̂0^i) (after RecDreamer, arXiv 2502.12640).

    p(k | x) = softmax_k(cos(f(x), f_k) / τ) compares an image embedding of the decoded x̂0 with that
    of K poses' templates, and u is uniform: a prior that shows mostly fronts gives p̄ a peak, which
    is evened out. RecDreamer raises log Σ_k p(k | x) / p̄_k of each view, with p̄ a moving average
    over the training, for each part of the noise levels; its gradient is this one's to first order
    in p̄ − u. Here all views around an object are seen at once, so their own average takes its place
    and nothing has to be remembered. RecDreamer also compares DINOv2's patches, and its templates
    are picked by hand.

    The templates are samples of a model for the prompt, drawn when it is first seen and kept in the
    user's cache as a picture, for every run with the same models, prompt and seed, whatever its
    negative prompt.

    Config, beside what `DecodedEnergy` says:
        pretrained_model_name_or_path: a CLIP or DINO, see `load_image_embedding`; in the paper
            DINOv2. CLIP's tells poses apart less well.
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
    class Config(DecodedEnergy.Config):
        pretrained_model_name_or_path: str = ""
        template_model_name_or_path: str | None = None
        text_encoder_name_or_path: str | None = None
        n_pose: Annotated[int, "[2, inf)"] = 4
        template_samples: Annotated[int, "[1, inf)"] = 8
        template_guidance_scale: Annotated[float, "[0, inf)"] = 7.5
        template_steps: Annotated[int, "[1, inf)"] = 50
        template_seed: Annotated[int, "[0, inf)"] = 0
        temperature: Annotated[float, "(0, inf)"] = 0.1
        cache_dir: str | None = None

    cfg: Config

    def configure(self) -> None:
        cfg, half = self.cfg, self.cfg.half_precision_weights
        self.embed = load_image_embedding(
            cfg.pretrained_model_name_or_path,
            self.device,
            half,
            "energy.pretrained_model_name_or_path",
        )
        self.image_size = self.embed.image_size
        self.templates = Templates(
            cfg.n_pose,
            cfg.template_samples,
            cfg.template_guidance_scale,
            cfg.template_steps,
            cfg.template_seed,
            cfg.cache_dir,
        )
        self.multiview: MultiviewPrior | None = None
        if name := cfg.template_model_name_or_path:
            vae_from = name if has_part(name, "vae", TEMPLATE_KEY) else None
            prior = load_prior(name, self.device, half, vae_from=vae_from, key=TEMPLATE_KEY)
            self.multiview = MultiviewPrior(prior, f"{TEMPLATE_KEY}={name!r}")
        self._poses: dict[bytes, Float[Tensor, "K D"]] = {}

    def see(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        return self.embed(images)

    def __call__(self, views: Views) -> Float[Tensor, " N"]:
        """
        Raises:
            ValueError: there are fewer than two views per object.
        """
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
                pictures = self.templates(*prompt, views.prior, self.multiview, self.embed)
                seen = self.embed(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2])
                self._poses[key] = F.normalize(seen.mean(dim=0), dim=-1)
            found.append(self._poses[key])
        return torch.stack(found)
