"""Text embeddings on disk: one safetensors file for each model and prompt, in the user's cache."""

import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..files import replacing, user_cache
from ..weights.names import find_local

ENCODER_PARTS = ("tokenizer", "text_encoder")
SECOND = ("tokenizer_2", "text_encoder_2")  # of SDXL and Stable Diffusion 3
T5 = ("tokenizer_3", "text_encoder_3")  # of Stable Diffusion 3, where it is not left out


def model_identity(name_or_path: str, t5: bool = True) -> str:
    """A hub name as it is; a local folder with sizes and times of its files."""
    root, parts = find_local(name_or_path), (*ENCODER_PARTS, *SECOND, *(T5 if t5 else ()))
    if root is None:
        return name_or_path if t5 else f"{name_or_path} without T5"
    files = sorted(f for part in parts for f in (root / part).rglob("*") if f.is_file())
    stamps = [(str(f.relative_to(root)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return json.dumps([str(root.resolve()), stamps])


@dataclass
class Gaps:
    """What of a prompt a text encoder does not take in.

    Attributes:
        unknown_words: words that are not in its vocabulary.
        known_words: with them, the vocabulary, if it is small enough to read.
        cut_off: the end of the prompt that is beyond its length.
    """

    unknown_words: list[str] = field(default_factory=list)
    known_words: list[str] = field(default_factory=list)
    cut_off: str = ""


@dataclass
class Embedding:
    """What text encoders make of a prompt, a pooled embedding last, and what they leave out."""

    hidden: Float[Tensor, "L D"]
    gaps: Gaps


class EmbeddingCache:
    """Embeddings of one model, by prompt.

    Args:
        folder: created where need be; None for `user_cache("text_embeddings")`.
        name_or_path: of the model, part of each file's name.
        t5: whether Stable Diffusion 3's third text encoder takes part.

    Raises:
        ValueError: the folder cannot be created or written to.
    """

    def __init__(self, folder: str | Path | None, name_or_path: str, t5: bool = True) -> None:
        self.folder = Path(folder).expanduser() if folder else user_cache("text_embeddings")
        self._identity = model_identity(name_or_path, t5)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise ValueError(
                f"Text embeddings cannot be kept in {self.folder} ({error.strerror}). "
                "Set system.prompt_processor.cache_dir to a folder that you may write to."
            ) from error

    def path(self, prompt: str) -> Path:
        key = json.dumps([self._identity, prompt]).encode()
        return self.folder / f"{hashlib.sha256(key).hexdigest()[:32]}.safetensors"

    def load(self, prompt: str) -> Embedding | None:
        """The embedding of `prompt`; None if it is absent or its file unreadable."""
        try:
            with safe_open(self.path(prompt), framework="pt") as file:
                gaps = Gaps(**json.loads(file.metadata()["gaps"]))
                return Embedding(file.get_tensor("hidden"), gaps)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None

    def save(self, prompt: str, embedding: Embedding) -> None:
        """Writes one file; it appears complete or not at all."""
        notes = {"gaps": json.dumps(asdict(embedding.gaps)), "prompt": prompt}
        hidden = embedding.hidden.detach().to("cpu", torch.float32).contiguous()
        with replacing(self.path(prompt)) as path:
            save_file({"hidden": hidden}, path, notes)
