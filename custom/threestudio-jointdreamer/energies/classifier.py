"""Coherence by a classifier: any two views should pass for views of one object."""

from dataclasses import dataclass
from itertools import permutations
from typing import Annotated

import threestudio
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..priors.pair_classifier import load_pair_classifier, relative_pose
from .base import Views
from .decoded import DecodedEnergy
from .reference import REFERENCES, reference_first, reorder

OUTPUTS = {"logit": lambda logit: logit, "log_sigmoid": F.logsigmoid}


@threestudio.register("jsd-classifier-energy")
class ClassifierEnergy(DecodedEnergy):
    """C_CLS = Σ_{i≠j} M_CLS(x̂0^i, x̂0^j, Δ(c^j, c^i)) (JointDreamer, arXiv 2407.12291).

    M_CLS looks at the decoded x̂0 of two views and at their relative camera. The gradient goes back
    through it and through the VAE's decoder. All ordered pairs count, but each view is decoded and
    seen by the backbone once.

    A classifier's gradient in its input points to specks and blotches that fool it more than to
    what people see. With jsd-guidance's `energy_gradient: unet` it goes back through the UNet too,
    whose Jacobian, the covariance of x given x_t but for a factor (Boys et al. 2023, arXiv
    2310.06721), lets pass what the prior finds likely to change.

    Config, beside what `DecodedEnergy` says:
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
    """

    @dataclass
    class Config(DecodedEnergy.Config):
        pretrained_model_name_or_path: str = ""
        backbone_name_or_path: str | None = None
        reference: Annotated[str | None, REFERENCES] = None
        output: Annotated[str, tuple(OUTPUTS)] = "log_sigmoid"

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
        self.image_size = self.model.image_size

    def see(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        return self.model.features(images)

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
        features, c2w = self.features(views), views.c2w
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
