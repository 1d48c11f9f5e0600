"""Runs a prior's tokenizer and CLIP text encoder over prompts, and finds words they do not know."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from transformers import AutoTokenizer, CLIPTextModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from ..diffusion.loading import MOVED, find_local
from .cache import ENCODER_PARTS, Embedding, Gaps

KEY = "system.prompt_processor.pretrained_model_name_or_path"
LISTABLE = 500  # a vocabulary that a person can read
HUB_FILES = [
    "tokenizer/*",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
]


def encode_prompts(name_or_path: str, prompts: list[str], device: torch.device) -> list[Embedding]:
    """Loads the encoder, encodes all prompts at once, and lets the encoder go.

    Args:
        name_or_path: a folder with `tokenizer/` and `text_encoder/`, or a hub name.

    Raises:
        FileNotFoundError: no such folder, or a hub name that cannot be fetched.
        ValueError: the files do not load.
    """
    root = _find_root(name_or_path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(root / "tokenizer")
        with _without_progress_bar():
            encoder = CLIPTextModel.from_pretrained(root / "text_encoder").float()
    except (OSError, RuntimeError, ValueError, TypeError, SafetensorError) as error:
        raise ValueError(
            f"{KEY}={name_or_path!r}: the tokenizer or text encoder in {root} does not load "
            f"({str(error).splitlines()[0]}). Download the model again."
        ) from error
    room = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
    tokens = tokenizer(
        prompts, padding="max_length", max_length=room, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        hidden = encoder.eval().to(device)(tokens.input_ids.to(device))[0]
    return [
        Embedding(row, _gaps(tokenizer, prompt, room))
        for prompt, row in zip(prompts, hidden.float().cpu(), strict=True)
    ]


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _find_root(name_or_path: str) -> Path:
    root = find_local(name_or_path)
    if root is None:
        root = _fetch(name_or_path)
    for part in ENCODER_PARTS:
        if not (root / part).is_dir():
            raise FileNotFoundError(
                f"{KEY}={name_or_path!r}: {root} has no folder {part}/. "
                "Point the key to a model in diffusers layout."
            )
    return root


def _fetch(name: str) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        moved = f" Its weights are now at {MOVED[name]}." if name in MOVED else ""
        raise FileNotFoundError(
            f"{KEY}={name!r} is neither a local folder nor could it be fetched from the Hugging "
            f"Face hub ({str(error).splitlines()[0]}).{moved} Download the model on a machine with "
            "network and point the key to that folder, or use a shipped prior, load/tiny/..."
        ) from error


def _gaps(tokenizer: PreTrainedTokenizerBase, prompt: str, room: int) -> Gaps:
    """Tokenizers that fall back to pieces of words, as CLIP's own, know every word."""
    ids = tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
    cut_off = tokenizer.decode(ids[room - tokenizer.num_special_tokens_to_add() :]).strip()
    unknown = [
        word
        for word in dict.fromkeys(re.findall(r"\w+", prompt))
        if tokenizer.unk_token_id in tokenizer(word, add_special_tokens=False).input_ids
    ]
    vocabulary = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    listed = unknown and len(vocabulary) <= LISTABLE
    return Gaps(unknown, sorted(vocabulary) if listed else [], cut_off)
