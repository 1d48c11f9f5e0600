"""CLIP under one interface: a folder or hub name that transformers reads, or any of open_clip's."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from threestudio_jointdreamer.prompts.text_encoder import load_tokenizer
from threestudio_jointdreamer.systems.picture_grid import Tile
from threestudio_jointdreamer.weights.files import sha256_of
from threestudio_jointdreamer.weights.models import open_model
from torch import Tensor
from transformers import CLIPModel

from ..open_clip_models import PREFIX, load_open_clip, split_name

OPTION = "--clip"
BATCH = 32


def load_clip(name: str, device: torch.device) -> "Clip":
    """The CLIP called `name`.

    Args:
        name: one of open_clip's models as `load_open_clip` takes it; else a folder in
            transformers' layout, or such a one on the hub.

    Raises:
        FileNotFoundError: a folder, or a hub name that cannot be fetched.
        ValueError: the model is unknown or does not load, or open_clip is not installed.
    """
    return OpenClip(name, device) if name.startswith(PREFIX) else FolderClip(name, device)


class Clip(ABC):
    """A CLIP: pictures and texts to embeddings of one space, not normalised.

    Args:
        name: what the user calls it, as reports show it.
        identity: differs where the weights or the preprocessing differ.
    """

    name: str
    identity: str

    def images(self, pictures: Sequence[Tile]) -> Float[Tensor, "N D"]:
        return _in_batches(self._embed_images, [Image.fromarray(picture) for picture in pictures])

    def texts(self, prompts: Sequence[str]) -> Float[Tensor, "P D"]:
        return _in_batches(self._embed_texts, list(prompts))

    @abstractmethod
    def _embed_images(self, pictures: list[Image.Image]) -> Tensor: ...

    @abstractmethod
    def _embed_texts(self, prompts: list[str]) -> Tensor: ...


@torch.no_grad()
def _in_batches(embed: Callable[[list], Tensor], items: list) -> Float[Tensor, "N D"]:
    batches = (items[start : start + BATCH] for start in range(0, len(items), BATCH))
    return torch.cat([embed(batch).float().cpu() for batch in batches])


class FolderClip(Clip):
    """A `CLIPModel` of transformers with its tokenizer.

    Without a `preprocessor_config.json`, pictures are scaled to [-1, 1], as the tiny world's are.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name, self._device = name, device
        opened = open_model(name, OPTION, [""])
        self._model = opened.load(CLIPModel, "", device, torch.float32)
        folder = opened.files.path
        self._tokenizer = load_tokenizer(folder, f"{OPTION} {name}")
        path = folder / "preprocessor_config.json"
        config = json.loads(path.read_text()) if path.is_file() else {}
        numbers = (config.get(key) or [0.5] * 3 for key in ("image_mean", "image_std"))
        self._mean, self._std = (torch.tensor(n, device=device).view(3, 1, 1) for n in numbers)
        self.identity = f"transformers {_contents(folder)}"

    def _embed_images(self, pictures: list[Image.Image]) -> Tensor:
        side = self._model.config.vision_config.image_size
        squares = [_square(picture, side) for picture in pictures]
        pixels = torch.from_numpy(np.stack(squares)).to(self._device).permute(0, 3, 1, 2)
        pixels = (pixels.float() / 255 - self._mean) / self._std
        seen = self._model.vision_model(pixel_values=pixels).pooler_output
        return self._model.visual_projection(seen)

    def _embed_texts(self, prompts: list[str]) -> Tensor:
        self._refuse_unknown_words(prompts)
        length = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(
            prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        read = self._model.text_model(input_ids=tokens.input_ids.to(self._device)).pooler_output
        return self._model.text_projection(read)

    def _refuse_unknown_words(self, prompts: Sequence[str]) -> None:
        tokenizer, unknown = self._tokenizer, self._tokenizer.unk_token_id
        means_unknown = unknown not in (None, tokenizer.eos_token_id, tokenizer.pad_token_id)
        for prompt in prompts:
            if means_unknown and unknown in tokenizer(prompt).input_ids:
                raise ValueError(
                    f"{OPTION} {self.name} does not know all words of the prompt {prompt!r}. Use "
                    "a CLIP of the real world, such as --clip open_clip:ViT-B-32/openai."
                )


class OpenClip(Clip):
    """One of open_clip's models, with its own preprocessing and tokenizer."""

    def __init__(self, name: str, device: torch.device) -> None:
        self._model, self._preprocess, self._tokenizer = load_open_clip(name, device, OPTION)
        self.name, self._device = name, device
        from open_clip import __version__

        model, pretrained = split_name(name, OPTION)
        self.identity = f"open_clip {__version__} {model} {_version(model, pretrained)}"

    def _embed_images(self, pictures: list[Image.Image]) -> Tensor:
        pixels = torch.stack([self._preprocess(picture) for picture in pictures])
        return self._model.encode_image(pixels.to(self._device))

    def _embed_texts(self, prompts: list[str]) -> Tensor:
        return self._model.encode_text(self._tokenizer(prompts).to(self._device))


def _square(picture: Image.Image, side: int) -> Image.Image:
    """The middle of a picture whose shorter side becomes `side`, as CLIP's own preprocessing."""
    scale = side / min(picture.size)
    wide, high = (max(side, round(length * scale)) for length in picture.size)
    left, top = (wide - side) // 2, (high - side) // 2
    resized = picture.resize((wide, high), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + side, top + side))


def _version(model: str, pretrained: str | None) -> str:
    """What tells weights apart that have the same name."""
    place = Path(pretrained or model.removeprefix("local-dir:"))
    if place.is_file():
        return sha256_of(place)
    return _contents(place) if place.is_dir() else str(pretrained)


def _contents(folder: Path) -> str:
    return " ".join(sha256_of(path) for path in sorted(folder.iterdir()) if path.is_file())
