"""CLIP under one interface: a folder or hub name that transformers reads, or any of open_clip's."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from PIL import Image
from threestudio_jointdreamer.priors.loading import load_model, locate
from threestudio_jointdreamer.systems.picture_grid import Tile
from threestudio_jointdreamer.weights.files import sha256_of
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel, PreTrainedTokenizerBase

TINY = "load/tiny/clip"
OPEN_CLIP = "open_clip:"
KEY = "--clip"
BATCH = 32


class Clip(Protocol):
    """A CLIP: pictures and texts to embeddings of one space, not normalised.

    Args:
        name: what the user calls it, as reports show it.
        identity: differs where the weights or the preprocessing differ.
    """

    name: str
    identity: str

    def images(self, pictures: Sequence[Tile]) -> Float[Tensor, "N D"]: ...

    def texts(self, prompts: Sequence[str]) -> Float[Tensor, "P D"]: ...


def load_clip(name: str, device: torch.device) -> Clip:
    """The CLIP called `name`.

    Args:
        name: `open_clip:MODEL/PRETRAINED` for one of open_clip's models with a tag or weights file,
            `open_clip:hf-hub:OWNER/NAME` or `open_clip:local-dir:FOLDER`; else a folder in
            transformers' layout, or such a one on the hub.

    Raises:
        FileNotFoundError: a folder, or a hub name that cannot be fetched.
        ValueError: the model is unknown or does not load, or open_clip is not installed.
    """
    if name.startswith(OPEN_CLIP):
        return OpenClip(name, device)
    return FolderClip(name, device)


class FolderClip:
    """A `CLIPModel` of transformers with its tokenizer.

    Without a `preprocessor_config.json`, pictures are scaled to [-1, 1], as the tiny world's are.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name, self._device = name, device
        self._model = load_model(CLIPModel, name, "", device, torch.float32, KEY)
        folder = locate(name, "", KEY)
        self._tokenizer = _tokenizer(folder, name)
        self._size = self._model.config.vision_config.image_size
        self._mean, self._std = _normalisation(folder, device)
        self.identity = f"transformers {_contents(folder)}"

    @torch.no_grad()
    def images(self, pictures: Sequence[Tile]) -> Float[Tensor, "N D"]:
        def embed(batch: Sequence[Tile]) -> Tensor:
            squares = [_as_tensor(_square(picture, self._size)) for picture in batch]
            pixels = (torch.stack(squares).to(self._device) - self._mean) / self._std
            seen = self._model.vision_model(pixel_values=pixels).pooler_output
            return self._model.visual_projection(seen).float().cpu()

        return torch.cat([embed(batch) for batch in _batches(pictures)])

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Float[Tensor, "P D"]:
        self._refuse_unknown_words(prompts)

        def embed(batch: Sequence[str]) -> Tensor:
            length = self._model.config.text_config.max_position_embeddings
            tokens = self._tokenizer(
                list(batch),
                padding="max_length",
                max_length=length,
                truncation=True,
                return_tensors="pt",
            )
            ids = tokens.input_ids.to(self._device)
            read = self._model.text_model(input_ids=ids).pooler_output
            return self._model.text_projection(read).float().cpu()

        return torch.cat([embed(batch) for batch in _batches(prompts)])

    def _refuse_unknown_words(self, prompts: Sequence[str]) -> None:
        tokenizer = self._tokenizer
        unknown = tokenizer.unk_token_id
        if unknown in (None, tokenizer.eos_token_id, tokenizer.pad_token_id):
            return
        for prompt in prompts:
            if unknown in tokenizer(prompt).input_ids:
                raise ValueError(
                    f"{KEY} {self.name} does not know all words of the prompt {prompt!r}. Use a "
                    "CLIP of the real world, such as --clip open_clip:ViT-B-32/openai."
                )


class OpenClip:
    """One of open_clip's models, with its own preprocessing and tokenizer."""

    def __init__(self, name: str, device: torch.device) -> None:
        open_clip = _import_open_clip()
        model, pretrained = _parse(name.removeprefix(OPEN_CLIP))
        try:
            with _unlogged():  # the error below says it
                self._model, self._preprocess = open_clip.create_model_from_pretrained(
                    model, pretrained, device=device
                )
                self._tokenizer = open_clip.get_tokenizer(model)
        except Exception as error:  # the hub's, the file system's, open_clip's own
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"{KEY} {name} does not load ({reason}). Known models and tags: "
                "python -c 'import open_clip; print(open_clip.list_pretrained())'; or give "
                "open_clip:MODEL/FILE with a weights file."
            ) from error
        self._model.eval().requires_grad_(False)
        self.name, self._device = name, device
        self.identity = f"open_clip {open_clip.__version__} {model} {_version(model, pretrained)}"

    @torch.no_grad()
    def images(self, pictures: Sequence[Tile]) -> Float[Tensor, "N D"]:
        def embed(batch: Sequence[Tile]) -> Tensor:
            pixels = [self._preprocess(Image.fromarray(picture)) for picture in batch]
            return self._model.encode_image(torch.stack(pixels).to(self._device)).float().cpu()

        return torch.cat([embed(batch) for batch in _batches(pictures)])

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Float[Tensor, "P D"]:
        def embed(batch: Sequence[str]) -> Tensor:
            tokens = self._tokenizer(list(batch)).to(self._device)
            return self._model.encode_text(tokens).float().cpu()

        return torch.cat([embed(batch) for batch in _batches(prompts)])


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))


def _square(picture: Tile, size: int) -> Image.Image:
    """The middle of a picture whose shorter side becomes `size`, as CLIP's own preprocessing."""
    image = Image.fromarray(picture)
    scale = size / min(image.size)
    wide, high = (max(size, round(side * scale)) for side in image.size)
    left, top = (wide - size) // 2, (high - size) // 2
    if (wide, high) != image.size:
        image = image.resize((wide, high), Image.Resampling.BICUBIC)
    return image.crop((left, top, left + size, top + size))


def _as_tensor(image: Image.Image) -> Float[Tensor, "3 H W"]:
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1).float() / 255


def _tokenizer(folder: Path, name: str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers and tokenizers raise all sorts
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{KEY} {name}: the tokenizer in {folder} does not load ({reason}). "
            "Download the model again."
        ) from error


def _normalisation(folder: Path, device: torch.device) -> tuple[Tensor, Tensor]:
    path = folder / "preprocessor_config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    numbers = (config.get(key) or [0.5] * 3 for key in ("image_mean", "image_std"))
    mean, std = (torch.tensor(channels, device=device).view(3, 1, 1) for channels in numbers)
    return mean, std


def _import_open_clip() -> Any:
    try:
        import open_clip
    except Exception as error:  # a torchvision of another torch raises RuntimeError
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"open_clip does not import ({reason}). Install the extra `clip`; its torchvision "
            "must be the build that belongs to the installed torch."
        ) from error
    return open_clip


def _parse(text: str) -> tuple[str, str | None]:
    if text.startswith(("hf-hub:", "local-dir:")):
        return text, None
    model, _, pretrained = text.partition("/")
    if not model or not pretrained:
        raise ValueError(
            f"{KEY} {OPEN_CLIP}{text} must name a model and its weights, as "
            "open_clip:ViT-B-32/openai."
        )
    return model, pretrained


def _version(model: str, pretrained: str | None) -> str:
    """What tells weights apart that have the same name."""
    place = Path(pretrained or model.removeprefix("local-dir:"))
    if place.is_file():
        return sha256_of(place)
    return _contents(place) if place.is_dir() else str(pretrained)


def _contents(folder: Path) -> str:
    return " ".join(sha256_of(path) for path in sorted(folder.iterdir()) if path.is_file())


@contextmanager
def _unlogged() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
