"""The pair classifier's training as a Lightning module: loss, optimizer, held-out metrics."""

import sys
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from jaxtyping import Float
from threestudio_jointdreamer.priors.pair_classifier import PairClassifier
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC, BinaryCalibrationError

from ..tinyworld.training import TrainingPlan
from .pairs import KINDS, SAME, Pairs, form_pairs, soften

SAVED_HISTORY = "history"
VIEWS = ("images", "janus")
DENOISED = "denoised_"  # before these names


def _metrics() -> nn.ModuleDict:
    """Of all held-out pairs, of the denoised ones, and of each kind of pair."""

    def of_answers(prefix: str = "") -> dict[str, Metric]:
        calibration = BinaryCalibrationError(n_bins=15)
        found = {"accuracy": BinaryAccuracy(), "roc_auc": BinaryAUROC()}
        found["calibration_error"] = calibration
        return {prefix + name: metric for name, metric in found.items()}

    metrics = of_answers() | {"loss": MeanMetric()} | of_answers(DENOISED)
    metrics |= {f"right_on_{kind}": BinaryAccuracy() for kind in KINDS}
    metrics |= {f"roc_auc_{kind}": BinaryAUROC() for kind in KINDS[1:]}
    return nn.ModuleDict(metrics | {"training_loss": MeanMetric()})


class PairTraining(pl.LightningModule):
    """Learns from groups of views whether pairs belong together.

    A batch is a dict as of `make_view_groups` or `ViewsFolder`: images [B V 3 H W] (uint8) and c2w
    [B V 4 4], and where there are any, janus and face_deg, denoised_images and denoised_janus.
    Where these are there, half of the objects are learnt from denoised, and held-out objects are
    judged both ways, with metrics of their own for the denoised ones.

    After every validation, `history` has one entry more, with the mean training loss since the last
    and the metrics of all held-out pairs.

    Args:
        plan: steps, the head's learning rate, seed.
        backbone_lr_scale: the backbone's learning rate, over the head's.
    """

    def __init__(
        self, classifier: PairClassifier, plan: TrainingPlan, backbone_lr_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.classifier, self.plan = classifier, plan
        self.backbone_lr_scale = backbone_lr_scale
        self.history: list[dict[str, float]] = []
        self.metrics = _metrics()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        batch = _half_denoised(batch)
        pairs = self._pairs(soften(_pictures(batch)), batch)
        loss = F.binary_cross_entropy_with_logits(*self._logits_and_labels(pairs))
        self.metrics["training_loss"].update(loss.detach())
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        seed = self.plan.seed + batch_idx + 1_000_003 * self.global_rank
        generator = torch.Generator().manual_seed(seed)
        pairs = self._pairs(_pictures(batch), batch, generator)
        logits, labels = self._logits_and_labels(pairs)
        self.metrics["loss"].update(F.binary_cross_entropy_with_logits(logits, labels))
        self._update_answers(logits, labels)
        for kind, name in enumerate(KINDS):
            of_kind = pairs.kind == kind
            if not of_kind.any():
                continue
            self.metrics[f"right_on_{name}"].update(logits[of_kind].sigmoid(), labels[of_kind])
            if kind != SAME:
                among = of_kind | (pairs.kind == SAME)
                self.metrics[f"roc_auc_{name}"].update(
                    logits[among].sigmoid(), labels[among].long()
                )
        if _can_be_denoised(batch):
            generator.manual_seed(seed)
            pairs = self._pairs(_pictures(_denoised(batch)), batch, generator)
            self._update_answers(*self._logits_and_labels(pairs), DENOISED)

    def _update_answers(self, logits: Tensor, labels: Tensor, prefix: str = "") -> None:
        for name in ("accuracy", "roc_auc", "calibration_error"):
            self.metrics[prefix + name].update(logits.sigmoid(), labels.long())

    def on_validation_epoch_end(self) -> None:
        measured = {
            name: round(metric.compute().item(), 5)
            for name, metric in self.metrics.items()
            if metric.update_called
        }
        for metric in self.metrics.values():
            metric.reset()
        if self.trainer.sanity_checking:
            return
        self.history.append({"step": self.global_step, **measured})
        self.print(
            f"pair classifier {self.global_step}/{self.plan.steps}: "
            f"training loss {measured.get('training_loss', float('nan')):.4f}, held-out objects: "
            f"accuracy {measured['accuracy']:.3f}, ROC-AUC {measured['roc_auc']:.3f}",
            file=sys.stderr,
        )

    def configure_optimizers(self) -> dict[str, Any]:
        plan, groups = self.plan, []
        for part, scale in (("head", 1.0), ("backbone", self.backbone_lr_scale)):
            parameters = getattr(self.classifier, part).parameters()
            learning = [p for p in parameters if p.requires_grad]
            if learning:
                groups.append({"params": learning, "lr": plan.lr * scale})
        optimizer = torch.optim.AdamW(groups, weight_decay=plan.weight_decay)
        schedule = {"scheduler": plan.schedule(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

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

    def _logits_and_labels(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
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
