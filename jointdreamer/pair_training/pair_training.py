"""The pair classifier's training as a Lightning module: loss, optimizer, held-out metrics."""

import math
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from jaxtyping import Float
from threestudio_jointdreamer.priors.pair_classifier import PairClassifier
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryAUROC,
    BinaryCalibrationError,
)

from .pairs import KINDS, SAME, Pairs, form_pairs, soften

SAVED_HISTORY = "history"
VIEWS = ("images", "janus")
DENOISED = "denoised_"  # before these names


@dataclass(frozen=True)
class Rates:
    """How fast to learn.

    Args:
        steps: optimizer steps.
        lr: the head's peak learning rate, reached after `warmup` steps; then a cosine to zero.
        backbone_lr_scale: the backbone's learning rate, over the head's.
        warmup: steps of linear warm-up.
        weight_decay: AdamW's.
    """

    steps: int
    lr: float = 1e-3
    backbone_lr_scale: float = 1.0
    warmup: int = 200
    weight_decay: float = 1e-2

    def at(self, step: int) -> float:
        """The share of the peak learning rate."""
        ramp = min(1.0, (step + 1) / max(1, self.warmup))
        return ramp * 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps)))


class PairTraining(pl.LightningModule):
    """Learns from groups of views whether pairs belong together.

    A batch is a dict as of `tinyworld.pairs.make_groups` or `ViewsFolder`: images [B V 3 H W]
    (uint8) and c2w [B V 4 4], and where there are any, janus and face_deg, denoised_images and
    denoised_janus. Where these are there, half of the objects are learnt from denoised, and
    held-out objects are judged both ways, with metrics of their own for the denoised ones.

    After every validation, `history` has one entry more, with the mean training loss since the last
    and the metrics of all held-out pairs.
    """

    def __init__(self, classifier: PairClassifier, rates: Rates, seed: int = 0) -> None:
        super().__init__()
        self.classifier, self.rates, self.seed = classifier, rates, seed
        self.history: list[dict[str, float]] = []
        self.recent_loss = MeanMetric()
        self.overall = MetricCollection(
            {
                "accuracy": BinaryAccuracy(),
                "roc_auc": BinaryAUROC(),
                "calibration_error": BinaryCalibrationError(n_bins=15),
            }
        )
        self.of_denoised = self.overall.clone(prefix=DENOISED)
        self.held_out_loss = MeanMetric()
        self.right = nn.ModuleList(BinaryAccuracy() for _ in KINDS)
        self.auc = nn.ModuleList(BinaryAUROC() for _ in KINDS[1:])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        batch = _half_denoised(batch)
        pairs = self._pairs(soften(_pictures(batch)), batch)
        loss = F.binary_cross_entropy_with_logits(*self._judge(pairs))
        self.recent_loss.update(loss.detach())
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        number = batch_idx + 1_000_003 * self.global_rank
        generator = torch.Generator().manual_seed(self.seed + number)
        pairs = self._pairs(_pictures(batch), batch, generator)
        logits, labels = self._judge(pairs)
        self.held_out_loss.update(F.binary_cross_entropy_with_logits(logits, labels))
        chance, labels = logits.sigmoid(), labels.long()
        self.overall.update(chance, labels)
        for kind, right in enumerate(self.right):
            among = pairs.kind == kind
            if among.any():
                right.update(chance[among], labels[among])
        for kind, auc in enumerate(self.auc, start=1):
            among = (pairs.kind == kind) | (pairs.kind == SAME)
            auc.update(chance[among], labels[among])
        if _can_be_denoised(batch):
            generator.manual_seed(self.seed + number)
            seen = _pictures(_denoised(batch))
            logits, labels = self._judge(self._pairs(seen, batch, generator))
            self.of_denoised.update(logits.sigmoid(), labels.long())

    def on_validation_epoch_end(self) -> None:
        metrics = {name: value.item() for name, value in self.overall.compute().items()}
        metrics["loss"] = self.held_out_loss.compute().item()
        for kind, right in enumerate(self.right):
            if right.update_called:
                metrics[f"right_on_{KINDS[kind]}"] = right.compute().item()
                if kind != SAME:
                    metrics[f"roc_auc_{KINDS[kind]}"] = self.auc[kind - 1].compute().item()
        if self.of_denoised["accuracy"].update_called:
            of_denoised = self.of_denoised.compute()
            metrics |= {name: value.item() for name, value in of_denoised.items()}
        if self.recent_loss.update_called:
            metrics["training_loss"] = self.recent_loss.compute().item()
        metrics = {name: round(value, 5) for name, value in metrics.items()}
        if not self.trainer.sanity_checking:
            self.history.append({"step": self.global_step, **metrics})
        for metric in (
            self.overall,
            self.of_denoised,
            self.held_out_loss,
            self.recent_loss,
            *self.right,
            *self.auc,
        ):
            metric.reset()

    def configure_optimizers(self) -> dict[str, Any]:
        rates, groups = self.rates, []
        for part, scale in (("head", 1.0), ("backbone", rates.backbone_lr_scale)):
            parameters = getattr(self.classifier, part).parameters()
            learning = [p for p in parameters if p.requires_grad]
            if learning:
                groups.append({"params": learning, "lr": rates.lr * scale})
        optimizer = torch.optim.AdamW(groups, weight_decay=rates.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rates.at)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[SAVED_HISTORY] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = list(checkpoint[SAVED_HISTORY])

    def _pairs(
        self,
        rgb: Float[Tensor, "B 3 H W"],
        batch: dict[str, Tensor],
        generator: torch.Generator | None = None,
    ) -> Pairs:
        """Pairs of the pictures of `_pictures`, with features as one batch."""
        features = self.classifier.features(rgb).float()
        features = features.unflatten(0, (-1, batch["images"].shape[1]))
        features = features.split(len(batch["images"]))
        janus = features[1] if len(features) > 1 else None
        with torch.autocast(self.device.type, enabled=False):  # the energy's poses are exact too
            return form_pairs(features[0], batch["c2w"], janus, batch.get("face_deg"), generator)

    def _judge(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Logits, and 1 for the pairs that belong together."""
        logits = self.classifier.head(pairs.first, pairs.second, pairs.pose).float()
        return logits, (pairs.kind == SAME).float()


def _pictures(batch: dict[str, Tensor]) -> Float[Tensor, "B 3 H W"]:
    """All of a batch's, in [0, 1]."""
    views = [batch[name] for name in VIEWS if name in batch]
    return torch.cat(views).flatten(0, 1).float() / 255


def _can_be_denoised(batch: dict[str, Tensor]) -> bool:
    return f"{DENOISED}images" in batch


def _denoised(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch as the 2D prior denoises it."""
    seen = {name: batch[f"{DENOISED}{name}"] for name in VIEWS if f"{DENOISED}{name}" in batch}
    return batch | seen


def _half_denoised(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each object with even odds as it is or denoised, where it can be."""
    if not _can_be_denoised(batch):
        return batch
    images = batch["images"]
    chosen = (torch.rand(len(images), device=images.device) < 0.5).view(-1, 1, 1, 1, 1)
    seen = {
        name: torch.where(chosen, views, batch[name])
        for name, views in _denoised(batch).items()
        if name in VIEWS
    }
    return batch | seen
