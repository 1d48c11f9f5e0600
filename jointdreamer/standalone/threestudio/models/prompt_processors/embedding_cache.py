"""Text embeddings on disk: one safetensors file for each model and prompt, in the user's cache."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from threestudio.utils.files import replacing

ENCODER_PARTS = ("tokenizer", "text_encoder")


@dataclass
class PromptNotes:
    """What a text encoder's tokenizer made of a prompt.

    Attributes:
        unknown_words: words that became the unknown token.
        known_words: with them, all words of a small vocabulary.
        ignored: the end of the prompt that did not fit, as text.
    """

    unknown_words: list[str] = field(default_factory=list)
    known_words: list[str] = field(default_factory=list)
    ignored: str = ""


def default_cache_dir() -> Path:
    """`threestudio-jointdreamer/text_embeddings` in $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "threestudio-jointdreamer" / "text_embeddings"


def repository_bases() -> list[Path]:
    """Where relative paths are looked up: the working directory, then the repository."""
    parents = Path(__file__).resolve().parents
    return [Path(), *(folder for folder in parents if (folder / "load").is_dir())][:2]


def find_local(name_or_path: str) -> Path | None:
    """The existing folder that `name_or_path` means; None if it can only be a hub name."""
    path = Path(name_or_path).expanduser()
    return next((base / path for base in repository_bases() if (base / path).is_dir()), None)


def model_identity(name_or_path: str) -> str:
    """A hub name as it is; a local folder with its files' sizes and times, new after training."""
    root = find_local(name_or_path)
    if root is None:
        return name_or_path
    files = sorted(f for part in ENCODER_PARTS for f in (root / part).rglob("*") if f.is_file())
    stats = [(str(f.relative_to(root)), f.stat()) for f in files]
    stamps = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return json.dumps([str(root.resolve()), stamps])


def hash_prompt(model: str, prompt: str) -> str:
    """The name of a prompt's file: sha256 of the model's identity and the prompt."""
    return hashlib.sha256(json.dumps([model, prompt]).encode()).hexdigest()


def cache_path(cache_dir: str | Path, identity: str, prompt: str) -> str:
    """The file for `prompt`, of the model whose `model_identity` is given."""
    return os.path.join(cache_dir, f"{hash_prompt(identity, prompt)}.safetensors")


def save_embedding(path: str, embedding: Float[Tensor, "N Nf"], notes: PromptNotes) -> None:
    """Writes one embedding; the file appears complete or not at all.

    Raises:
        ValueError: if the folder cannot be written to.
    """
    tensor = embedding.detach().to("cpu", torch.float32).contiguous()
    try:
        with replacing(path) as temporary:
            save_file({"embedding": tensor}, temporary, {"notes": json.dumps(asdict(notes))})
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"Text embeddings cannot be written to {os.path.dirname(path)} ({error}). Set "
            "system.prompt_processor.cache_dir to a folder that you may write to."
        ) from error


def load_embedding(path: str) -> tuple[Float[Tensor, "N Nf"], PromptNotes] | None:
    """The embedding in a file; None if the file is absent or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            notes = PromptNotes(**json.loads(file.metadata()["notes"]))
            return file.get_tensor("embedding"), notes
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
