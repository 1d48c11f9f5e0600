"""Trains the tiny world's face detector on pictures that are augmented anew at every step."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from threestudio_jointdreamer.files import replacing
from torch import Tensor

from ..tinyworld.training import Trainer, TrainingPlan
from .augmentation import augment
from .detectors import FaceDetector
from .face_dataset import make_face_dataset

PLAN = TrainingPlan(steps=2000, lr=2e-3, warmup=100, ema=0.998, save_every=400)
PICTURES = 12_000


def train_face_detector(
    folder: Path,
    steps: int = PLAN.steps,
    seed: int = PLAN.seed,
    pictures: int = PICTURES,
    batch: int = 128,
    device: torch.device | str = "cpu",
    start: Path | None = None,
) -> dict[str, float]:
    """Trains a detector (an interrupted training goes on), and writes it to `folder`.

    Args:
        folder: gets the weights, the settings and `training.json`.
        pictures: how many clean renders there are to augment.
        batch: pictures in a step.
        start: folder of a detector to go on from, instead of from scratch.

    Returns:
        steps, seconds and the last training loss.
    """
    plan = replace(PLAN, steps=steps, warmup=max(1, min(PLAN.warmup, steps // 10)), seed=seed)
    data = make_face_dataset(pictures, "train", seed)
    images, labels = data.images.to(device), data.labels.to(device)
    torch.manual_seed(seed)
    detector = (FaceDetector.load(start).train() if start else FaceDetector()).to(device)

    def loss() -> Tensor:
        rows = torch.randint(len(images), (batch,), device=device)
        augmented = augment(images[rows].float() / 255, detector.size)
        return F.binary_cross_entropy_with_logits(detector.logits(augmented), labels[rows])

    folder.mkdir(parents=True, exist_ok=True)
    report = Trainer(detector, loss, plan, folder / "training.state").run("faces")
    detector.save(folder)
    settings = {"plan": asdict(plan), "pictures": pictures, "batch": batch, "start": bool(start)}
    with replacing(folder / "training.json") as new:
        new.write_text(json.dumps({**settings, **report}, indent=2) + "\n")
    return report
