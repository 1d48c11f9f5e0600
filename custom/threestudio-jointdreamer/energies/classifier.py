"""Coherence by a classifier: any two views should pass for views of one object."""

import math
from dataclasses import dataclass
from itertools import permutations
from typing import Annotated

import threestudio
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..priors.gradient_range import within_half_range
from ..priors.pair_classifier import load_pair_classifier, relative_pose
from .base import Energy, Views
from .reference import REFERENCES, reference_first, reorder

OUTPUTS = {"logit": lambda logit: logit, "log_sigmoid": F.logsigmoid}
PROBE = 4  # latent pixels along an edge of what is decoded once to learn the VAE's factor


@threestudio.register("jsd-classifier-energy")
class ClassifierEnergy(Energy):
    """C_CLS = Σ_{i≠j} M_CLS(x̂0^i, x̂0^j, Δ(c^j, c^i)) (JointDreamer, arXiv 2407.12291).

    M_CLS looks at the decoded x̂0 of two views and at their relative camera. The gradient goes back
    through it and through the VAE's decoder. All ordered pairs count, but each view is decoded and
    seen by the backbone once.

    A classifier's gradient in its input points to specks and blotches that fool it more than to
    what people see. With jsd-guidance's `energy_gradient: unet` it goes back through the UNet too,
    whose Jacobian, the covariance of x given x_t but for a factor (Boys et al. 2023, arXiv
    2310.06721), lets pass what the prior finds likely to change.

    Config:
        pretrained_model_name_or_path: a pair classifier's folder, with head/ and mostly backbone/,
            or a hub name.
        backbone_name_or_path: a DINO to use instead, as a folder, hub name or original checkpoint
            file. By default the one that the head's config names, else backbone/ beside the head.
        reference: null, every ordered pair counts, and what does not fit may change in any view.
            Otherwise one view is taken as it is, the others are judged beside it, and the gradient
            leaves it alone, as in jsd-translation-energy: the `first`; the most `frontal` one,
            whose azimuth is nearest to 0; or a `random` one.
        output: `log_sigmoid`, the logarithm of the probability, whose gradient fades for pairs that
            already pass; `logit`, whose gradient does not.
        decode_latent_size: latents are resized to this before they are decoded. By default to the
            smallest size that fills the classifier's images, 28 for 224 pixels; larger sizes are
            truer to the latents, and cost as many times more as they have pixels.
        half_precision_weights: the backbone in fp16 on a GPU.
        gradient_checkpointing: decodes and classifies view by view, and once more in the backward
            pass: slower (6 times on an H200, where four views keep the GPU busier than one), but
            with the memory of one view: 0.6 instead of 2.4 GiB for four.
    """

    @dataclass
    class Config(Energy.Config):
        pretrained_model_name_or_path: str = ""
        backbone_name_or_path: str | None = None
        reference: Annotated[str | None, REFERENCES] = None
        output: Annotated[str, tuple(OUTPUTS)] = "log_sigmoid"
        decode_latent_size: Annotated[int | None, "[1, inf)"] = None
        half_precision_weights: bool = True
        gradient_checkpointing: bool = False

    cfg: Config

    def configure(self) -> None:
        self.model = load_pair_classifier(
            self.cfg.pretrained_model_name_or_path,
            self.device,
            self.cfg.half_precision_weights,
            self.cfg.backbone_name_or_path,
            key="energy.pretrained_model_name_or_path",
            backbone_key="energy.backbone_name_or_path",
        )
        self._pixels_per_latent: float | None = None

    def __call__(self, views: Views) -> Float[Tensor, " N"]:
        return OUTPUTS[self.cfg.output](self.logits(views)).sum(dim=1)

    def logits(self, views: Views) -> Float[Tensor, "N P"]:
        """Of every ordered pair (0, 1), (0, 2) ... (1, 0) ... of an object's views.

        With a reference of its pairs only: it with each of the others, then each of them with it.

        Raises:
            ValueError: there is one view per object.
        """
        if views.n_view < 2:
            raise ValueError(
                "jsd-classifier-energy judges pairs of views, but there is one view per object: "
                "set system.guidance.n_view to 2 or more."
            )
        features, c2w = self._features(views), views.c2w
        pairs = list(permutations(range(views.n_view), 2))
        if self.cfg.reference is not None:
            order = reference_first(self.cfg.reference, views)
            features, c2w = reorder(features, order), reorder(c2w, order)
            features = torch.cat([features[:, :1].detach(), features[:, 1:]], dim=1)
            others = range(1, views.n_view)
            pairs = [(0, other) for other in others] + [(other, 0) for other in others]
        first, second = [i for i, _ in pairs], [j for _, j in pairs]
        pose = relative_pose(c2w[:, first], c2w[:, second]).to(features.dtype)
        of_pairs = features[:, first], features[:, second], pose
        logits = self.model.head(*(x.flatten(0, 1) for x in of_pairs))
        return logits.unflatten(0, (views.n_object, len(pairs)))

    def _features(self, views: Views) -> Float[Tensor, "N V D"]:
        latent_size = self._latent_size(views)

        def see(latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D"]:
            return self.model.features(views.prior.decode(latents, latent_size))

        def see_one_by_one(latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D"]:
            seen = (
                checkpoint(see, view, use_reentrant=False, preserve_rng_state=False)
                for view in latents.split(1)
            )
            return torch.cat(list(seen))

        see_all = see_one_by_one if self.cfg.gradient_checkpointing else see
        features = within_half_range(see_all, views.denoised.flatten(0, 1))
        return features.unflatten(0, (views.n_object, views.n_view))

    def _latent_size(self, views: Views) -> int:
        if self.cfg.decode_latent_size is not None:
            return self.cfg.decode_latent_size
        if self._pixels_per_latent is None:
            with torch.no_grad():
                decoded = views.prior.decode(views.denoised[0, :1], PROBE)
            self._pixels_per_latent = decoded.shape[-1] / PROBE
        return math.ceil(self.model.image_size / self._pixels_per_latent)
