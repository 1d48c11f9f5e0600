"""Trains the tiny world's face detector on pictures that are spoilt anew at every step."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tinyworld.training import Trainer, TrainingPlan
from .detector import FaceDetector
from .face_pictures import make_face_pictures
from .spoiling import spoil

PLAN = TrainingPlan(steps=2000, lr=2e-3, warmup=100, ema=0.998, save_every=400)
PICTURES, BATCH, VALIDATION = 12_000, 128, 1000


def train_face_detector(
    folder: Path,
    plan: TrainingPlan = PLAN,
    pictures: int = PICTURES,
    batch: int = BATCH,
    validation: int = VALIDATION,
    device: torch.device | str = "cpu",
    start: Path | None = None,
) -> dict[str, float]:
    """Trains a detector (an interrupted training goes on), and writes it to `folder`.

    Args:
        folder: gets the weights, the settings and `training.json`.
        pictures: how many clean renders there are to spoil.
        batch: pictures in a step.
        validation: pictures of creatures kept for calibration, to see how it went.

        start: folder of a detector to go on from, instead of from scratch.

    Returns:
        steps, seconds, the last training loss, and on clean and on spoilt pictures of creatures
        kept for calibration the share of pictures told right (of those that are clearly one).
    """
    data = make_face_pictures(pictures, "train", plan.seed)
    images, labels = data.images.to(device), data.labels.to(device)
    torch.manual_seed(plan.seed)
    detector = (FaceDetector.load(start).train() if start else FaceDetector()).to(device)

    def loss() -> Tensor:
        rows = torch.randint(len(images), (batch,), device=device)
        spoilt = spoil(images[rows].float() / 255, detector.size)
        return F.binary_cross_entropy_with_logits(detector.logits(spoilt), labels[rows])

    folder.mkdir(parents=True, exist_ok=True)
    report = Trainer({"detector": detector}, loss, plan, folder / "training.state").run("faces")
    report |= _validate(detector.eval(), validation, plan.seed + 1)
    detector.save(folder)
    settings = {
        "plan": asdict(plan),
        "pictures": pictures,
        "batch": batch,
        "start": bool(start),
        **report,
    }
    temporary = folder / ".training.json"
    temporary.write_text(json.dumps(settings, indent=2) + "\n")
    os.replace(temporary, folder / "training.json")
    return report


@torch.no_grad()
def _validate(detector: FaceDetector, count: int, seed: int) -> dict[str, float]:
    data = make_face_pictures(count, "calibrate", seed)
    clear = (data.labels - 0.5).abs() > 0.45
    clean = data.images[clear].float() / 255
    truth = data.labels[clear] > 0.5
    torch.manual_seed(seed)
    device = detector.head.weight.device
    spoilt = spoil(clean.to(device), detector.size)

    def right(images: Tensor) -> float:
        scores = detector(images.permute(0, 2, 3, 1))
        return ((scores > 0.5) == truth).float().mean().item()

    return {"right_on_clean": right(clean), "right_on_spoilt": right(spoilt)}


def shortened(steps: int, seed: int = 0) -> TrainingPlan:
    """The plan with another number of steps."""
    return replace(PLAN, steps=steps, warmup=max(1, min(PLAN.warmup, steps // 10)), seed=seed)
