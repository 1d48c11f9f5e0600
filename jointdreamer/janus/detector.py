"""Detectors that say of a picture how sure they are that a face looks at the camera."""

import json
import os
import tempfile
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..paths import find_shipped
from .verdict import Limits

TINY_FOLDER = Path("load/tiny/face-detector")
WEIGHTS, SETTINGS = "model.safetensors", "config.json"
_CHUNK = 64


class Detector(Protocol):
    """What `judge` asks. Any callable object with these attributes will do.

    Attributes:
        name: for reports.
        calibrated: whether its limits were measured on assets of the kind that is judged.
        limits: see `Limits`.
    """

    name: str
    calibrated: bool
    limits: Limits

    def __call__(self, frames: Float[Tensor, "V H W 3"]) -> Float[Tensor, " V"]:
        """Scores in [0, 1] of frames with colours in [0, 1]."""
        ...


class FaceDetector(nn.Module):
    """A small convolutional network for the creatures of the tiny world.

    Pictures are resized to `size` x `size`. Features are pooled by their largest value, so that it
    does not matter where in the picture the face is.
    """

    name = "tiny"
    calibrated = True

    def __init__(
        self,
        channels: tuple[int, ...] = (24, 48, 64, 64),
        size: int = 64,
        limits: Limits | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.size, self.limits = tuple(channels), size, limits or Limits()
        blocks, before = [], 3
        for index, width in enumerate(self.channels):
            kernel = 5 if index == 0 else 3
            stride = 2 if index < len(self.channels) - 1 else 1
            blocks += [
                nn.Conv2d(before, width, kernel, stride, kernel // 2),
                nn.GroupNorm(8, width),
                nn.SiLU(),
            ]
            before = width
        self.features = nn.Sequential(*blocks)
        self.head = nn.Linear(2 * before, 1)

    def logits(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, " B"]:
        """Logits for pictures of the network's own size."""
        features = self.features(images * 2 - 1)
        pooled = torch.cat([features.amax(dim=(2, 3)), features.mean(dim=(2, 3))], dim=1)
        return self.head(pooled)[:, 0]

    @torch.no_grad()
    def forward(self, frames: Float[Tensor, "V H W 3"]) -> Float[Tensor, " V"]:
        device = self.head.weight.device
        scores = []
        for chunk in frames.split(_CHUNK):
            images = chunk.permute(0, 3, 1, 2).to(device, torch.float32)
            if images.shape[-2:] != (self.size, self.size):
                images = F.interpolate(
                    images, (self.size, self.size), mode="bilinear", antialias=True
                )
            scores.append(self.logits(images).sigmoid().cpu())
        return torch.cat(scores)

    def save(self, folder: Path) -> None:
        """Writes weights and settings, each whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "channels": list(self.channels),
            "size": self.size,
            "limits": vars(self.limits),
        }
        weights = {name: value.detach().cpu() for name, value in self.state_dict().items()}
        with tempfile.TemporaryDirectory(dir=folder) as workplace:
            save_file(weights, Path(workplace) / WEIGHTS)
            (Path(workplace) / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")
            for name in (WEIGHTS, SETTINGS):
                os.replace(Path(workplace) / name, folder / name)

    @classmethod
    def load(cls, folder: Path) -> "FaceDetector":
        """
        Raises:
            FileNotFoundError: the folder lacks weights or settings.
        """
        missing = [name for name in (WEIGHTS, SETTINGS) if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"The face detector in {folder} lacks {' and '.join(missing)}. Restore it from the "
                "repository, or train it: python benchmarks/janus_meter.py train"
            )
        settings = json.loads((folder / SETTINGS).read_text())
        limits = Limits(**settings["limits"])
        detector = cls(tuple(settings["channels"]), settings["size"], limits)
        detector.load_state_dict(load_file(folder / WEIGHTS))
        return detector.eval()


def find_detector(detector: str | Detector) -> Detector:
    """The detector of a name, `tiny` or `open_clip:MODEL/PRETRAINED`; objects pass through.

    Raises:
        ValueError: no such name.
    """
    if not isinstance(detector, str):
        return detector
    if detector == "tiny":
        return FaceDetector.load(find_shipped(TINY_FOLDER) or TINY_FOLDER)
    if detector.startswith("open_clip:"):
        from .clip_detector import ClipDetector

        return ClipDetector.from_name(detector)
    raise ValueError(
        f"The face detector {detector!r} is unknown. Use tiny for creatures of the tiny world, or "
        "open_clip:MODEL/PRETRAINED, such as open_clip:ViT-B-32/openai, for other assets."
    )
