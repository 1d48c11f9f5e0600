"""CLIP as the face detector, for assets that are no creatures of the tiny world; uncalibrated."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .verdict import Limits

VIEWS = {
    "front": ("the front view of {}", "{} facing the camera", "the face of {}"),
    "side": ("the side view of {}", "{} in profile"),
    "back": ("the back view of {}", "{} seen from behind", "the back of the head of {}"),
}
SUBJECT = "a 3D character"
_CHUNK = 16


class ClipDetector:
    """Scores a view by how much more CLIP takes it for a front view than for a side or back view.

    Nobody has measured its limits on real assets: read its verdicts together with their pictures.

    Args:
        model: with `encode_image`, `encode_text` and `logit_scale` as open_clip's models have.
        tokenizer: texts to token ids.
        size: height and width of the pictures that the model takes.
        mean, std: of the pictures' colours.
        subject: what the asset is, for the prompts.
        name: for reports.
    """

    calibrated = False
    limits = Limits()

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        subject: str = SUBJECT,
        name: str = "open_clip",
    ) -> None:
        self.model, self.size, self.name = model.eval(), size, name
        self.device = next(model.parameters()).device
        self.mean = torch.tensor(mean, device=self.device).view(1, 3, 1, 1)
        self.std = torch.tensor(std, device=self.device).view(1, 3, 1, 1)
        self.directions = self._text_directions(tokenizer, subject)

    @classmethod
    def from_name(cls, name: str, subject: str = SUBJECT) -> "ClipDetector":
        """
        Args:
            name: `open_clip:MODEL/PRETRAINED`; PRETRAINED may be a file of weights.

        Raises:
            ValueError: open_clip is not installed, or does not know the model.
        """
        model_name, _, pretrained = name.removeprefix("open_clip:").partition("/")
        if not model_name or not pretrained:
            raise ValueError(
                f"The face detector {name!r} is incomplete. Write open_clip:MODEL/PRETRAINED, such "
                "as open_clip:ViT-B-32/openai."
            )
        try:
            import open_clip
        except ImportError as error:
            raise ValueError(
                f"The face detector {name} needs open_clip ({error}). Install it beside a matching "
                "torchvision: pip install open_clip_torch"
            ) from error
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            model = open_clip.create_model(model_name, pretrained=pretrained, device=device)
        except RuntimeError as error:
            raise ValueError(
                f"open_clip cannot make {name} ({' '.join(str(error).split())}). "
                "open_clip.list_pretrained() lists what it knows."
            ) from error
        visual = model.visual
        size = visual.image_size[0] if isinstance(visual.image_size, tuple) else visual.image_size
        mean = visual.image_mean or open_clip.OPENAI_DATASET_MEAN
        std = visual.image_std or open_clip.OPENAI_DATASET_STD
        tokenizer = open_clip.get_tokenizer(model_name)
        return cls(model, tokenizer, size, mean, std, subject, name)

    @torch.no_grad()
    def _text_directions(self, tokenizer: Any, subject: str) -> Float[Tensor, "D 3"]:
        """A unit vector each for front, side and back: the mean over their prompts."""
        directions = []
        for prompts in VIEWS.values():
            tokens = tokenizer([prompt.format(subject) for prompt in prompts]).to(self.device)
            features = F.normalize(self.model.encode_text(tokens).float(), dim=-1)
            directions.append(F.normalize(features.mean(dim=0), dim=-1))
        return torch.stack(directions, dim=1)

    @torch.no_grad()
    def __call__(self, frames: Float[Tensor, "V H W 3"]) -> Float[Tensor, " V"]:
        scores = []
        for chunk in frames.split(_CHUNK):
            images = chunk.permute(0, 3, 1, 2).float().to(self.device)
            images = F.interpolate(images, (self.size, self.size), mode="bicubic", antialias=True)
            images = (images.clamp(0, 1) - self.mean) / self.std
            features = F.normalize(self.model.encode_image(images).float(), dim=-1)
            logits = self.model.logit_scale.exp() * features @ self.directions
            scores.append(logits.softmax(dim=-1)[:, 0].cpu())
        return torch.cat(scores)
