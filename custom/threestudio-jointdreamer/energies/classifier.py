"""Coherence by a classifier: any two views should pass for views of one object."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import threestudio
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..priors.gradient_range import within_half_range
from ..priors.pair_classifier import load_pair_classifier, named_backbone, relative_pose
from ..weights.requirements import Requirement, is_half, parts_of
from .base import Energy, Views
from .reference import REFERENCES, check_reference, choose_reference

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
        reference: str | None = None
        output: str = "log_sigmoid"
        decode_latent_size: int | None = None
        half_precision_weights: bool = True
        gradient_checkpointing: bool = False

    cfg: Config

    @classmethod
    def required_weights(cls, cfg: Mapping[str, Any], key: str) -> Iterator[Requirement]:
        """What is loaded, for `jointdreamer download` and `doctor`."""
        yield from parts_of(cfg, key, ["head"], half=False)
        backbone = cfg["backbone_name_or_path"]
        backbone = backbone or named_backbone(str(cfg["pretrained_model_name_or_path"] or ""))
        if backbone:
            yield Requirement(f"{key}.backbone_name_or_path", str(backbone), "", is_half(cfg))
        else:
            yield from parts_of(cfg, key, ["backbone"], is_half(cfg), optional=True)

    def configure(self) -> None:
        check_reference(self.cfg.reference, (None, *REFERENCES))
        if self.cfg.output not in OUTPUTS:
            raise ValueError(f"energy.output={self.cfg.output!r}: use one of {', '.join(OUTPUTS)}.")
        size = self.cfg.decode_latent_size
        if size is not None and size < 1:
            raise ValueError(
                f"energy.decode_latent_size={size} must be 1 or more; null for the smallest "
                "that fills the classifier's images."
            )
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
        return OUTPUTS[self.cfg.output](self.logits(views)).sum(dim=(1, 2))

    def logits(self, views: Views) -> Float[Tensor, "N R V-1"]:
        """Of view i (second axis) with each of the other views, in order; R = V.

        With a reference of its pairs only, R = 2: it with each of the others, and each with it.

        Raises:
            ValueError: there is one view per object.
        """
        n_object, n_view = views.n_object, views.n_view
        if n_view < 2:
            raise ValueError(
                "jsd-classifier-energy judges pairs of views, but there is one view per object: "
                "set system.guidance.n_view to 2 or more."
            )
        i, j = self._pairs(views)
        features = self._features(views)
        if self.cfg.reference is not None:
            given = F.one_hot(i[:, 0, 0], n_view).bool()
            features = torch.where(given[..., None], features.detach(), features)
        rows = torch.arange(n_object, device=i.device)[:, None, None]
        pose = relative_pose(views.c2w[rows, i], views.c2w[rows, j]).to(features.dtype)
        pairs = features[rows, i], features[rows, j], pose
        return self.model.head(*(x.flatten(0, 2) for x in pairs)).unflatten(0, i.shape)

    def _pairs(self, views: Views) -> tuple[Int[Tensor, "N R V-1"], Int[Tensor, "N R V-1"]]:
        """First and second views of the pairs; with a reference it is the first row's first."""
        n_view, device = views.n_view, views.denoised.device
        if self.cfg.reference is None:
            first = torch.arange(n_view, device=device).expand(views.n_object, -1)
        else:
            first = choose_reference(self.cfg.reference, views)[:, None]
        second = (first[..., None] + torch.arange(1, n_view, device=device)) % n_view
        second = second.sort(dim=-1).values
        first = first[..., None].expand_as(second)
        if self.cfg.reference is None:
            return first, second
        return torch.cat([first, second], dim=1), torch.cat([second, first], dim=1)

    def _features(self, views: Views) -> Float[Tensor, "N V D"]:
        latent_size = self._latent_size(views)

        def see(latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D"]:
            return self.model.features(views.decode(latents, latent_size))

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
                decoded = views.decode(views.denoised[0, :1], PROBE)
            self._pixels_per_latent = decoded.shape[-1] / PROBE
        return math.ceil(self.model.image_size / self._pixels_per_latent)
