"""Face detectors: how sure they are that a face looks at the camera; for creatures, and CLIP."""

import json
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from threestudio_jointdreamer.files import replacing
from torch import Tensor, nn

from ..open_clip_models import PREFIX, load_open_clip
from ..paths import find_shipped
from .verdict import Limits

TINY_FOLDER = Path("load/tiny/face-detector")
WEIGHTS, SETTINGS = "model.safetensors", "config.json"
SUBJECT = "a 3D character"
PROMPTS = {
    "front": ("the front view of {}", "{} facing the camera", "the face of {}"),
    "side": ("the side view of {}", "{} in profile"),
    "back": ("the back view of {}", "{} seen from behind", "the back of the head of {}"),
}


class Detector(Protocol):
    """What `judge` asks. Any callable object with these attributes will do."""

    name: str  # for reports
    calibrated: bool  # whether its limits were measured on assets of the kind that is judged
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
        layers, before = [], 3
        for index, width in enumerate(self.channels):
            kernel = 5 if index == 0 else 3
            stride = 2 if index < len(self.channels) - 1 else 1
            layers += [nn.Conv2d(before, width, kernel, stride, kernel // 2)]
            layers += [nn.GroupNorm(8, width), nn.SiLU()]
            before = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(2 * before, 1)

    def logits(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, " B"]:
        """Logits for pictures of the network's own size."""
        features = self.features(images * 2 - 1)
        pooled = torch.cat([features.amax(dim=(2, 3)), features.mean(dim=(2, 3))], dim=1)
        return self.head(pooled)[:, 0]

    @torch.no_grad()
    def forward(self, frames: Float[Tensor, "V H W 3"]) -> Float[Tensor, " V"]:
        device = self.head.weight.device
        batches = (_images(chunk, self.size, device, "bilinear") for chunk in frames.split(64))
        return torch.cat([self.logits(images).sigmoid().cpu() for images in batches])

    def save(self, folder: Path) -> None:
        """Writes weights and settings, each whole or not at all."""
        settings = {"channels": self.channels, "size": self.size, "limits": vars(self.limits)}
        weights = {name: value.detach().cpu() for name, value in self.state_dict().items()}
        with replacing(folder / WEIGHTS) as new:
            save_file(weights, new)
        with replacing(folder / SETTINGS) as new:
            new.write_text(json.dumps(settings, indent=2) + "\n")

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
        settings["limits"] = Limits(**settings["limits"])
        detector = cls(**settings)
        detector.load_state_dict(load_file(folder / WEIGHTS))
        return detector.eval()


class ClipDetector:
    """Scores a view by how much more CLIP takes it for a front view than for a side or back view.

    Nobody has measured its limits on real assets: read its verdicts together with their pictures.

    Args:
        model: with `encode_image`, `encode_text` and `logit_scale` as open_clip's models have.
        tokenizer: texts to token ids.
        size, mean, std: of the pictures that the model takes.
        name: for reports.
    """

    calibrated = False
    limits = Limits()

    @torch.no_grad()
    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        name: str = "open_clip",
    ) -> None:
        self.model, self.size, self.name = model.eval(), size, name
        self.device = next(model.parameters()).device
        self.mean = torch.tensor(mean, device=self.device).view(1, 3, 1, 1)
        self.std = torch.tensor(std, device=self.device).view(1, 3, 1, 1)
        directions = []  # a unit vector each for front, side and back: the mean over their prompts
        for prompts in PROMPTS.values():
            tokens = tokenizer([prompt.format(SUBJECT) for prompt in prompts]).to(self.device)
            features = F.normalize(self.model.encode_text(tokens).float(), dim=-1)
            directions.append(F.normalize(features.mean(dim=0), dim=-1))
        self.directions = torch.stack(directions, dim=1)

    @classmethod
    def from_name(cls, name: str) -> "ClipDetector":
        """One of open_clip's models; `load_open_clip` says how names are written."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model, _, tokenizer = load_open_clip(name, device, "The face detector")
        from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

        visual = model.visual
        size = visual.image_size[0] if isinstance(visual.image_size, tuple) else visual.image_size
        mean = visual.image_mean or OPENAI_DATASET_MEAN
        std = visual.image_std or OPENAI_DATASET_STD
        return cls(model, tokenizer, size, mean, std, name)

    @torch.no_grad()
    def __call__(self, frames: Float[Tensor, "V H W 3"]) -> Float[Tensor, " V"]:
        scores = []
        for chunk in frames.split(16):
            images = _images(chunk, self.size, self.device, "bicubic").clamp(0, 1)
            images = (images - self.mean) / self.std
            features = F.normalize(self.model.encode_image(images).float(), dim=-1)
            logits = self.model.logit_scale.exp() * features @ self.directions
            scores.append(logits.softmax(dim=-1)[:, 0].cpu())
        return torch.cat(scores)


def _images(
    frames: Float[Tensor, "B H W 3"], size: int, device: torch.device, mode: str
) -> Float[Tensor, "B 3 size size"]:
    images = frames.permute(0, 3, 1, 2).to(device, torch.float32)
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode=mode, antialias=True)


def find_detector(name: str) -> Detector:
    """The detector called `tiny` or `open_clip:MODEL/PRETRAINED`.

    Raises:
        FileNotFoundError: the shipped weights are missing.
        ValueError: no such name.
    """
    if name == "tiny":
        return FaceDetector.load(find_shipped(TINY_FOLDER) or TINY_FOLDER)
    if name.startswith(PREFIX):
        return ClipDetector.from_name(name)
    raise ValueError(
        f"The face detector {name!r} is unknown. Use tiny for creatures of the tiny world, or "
        "open_clip:MODEL/PRETRAINED, such as open_clip:ViT-B-32/openai, for other assets."
    )
