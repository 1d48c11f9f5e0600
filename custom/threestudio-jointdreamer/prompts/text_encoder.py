"""Runs a prior's tokenizer and CLIP text encoder over prompts, and finds words they do not know."""

import json
import re
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModel, PreTrainedTokenizerBase

from ..weights.models import NamedModel, open_model
from .cache import ENCODER_PARTS, Embedding, Gaps

KEY = "system.prompt_processor.pretrained_model_name_or_path"
BATCH = 1024  # prompts
LISTABLE = 500  # a vocabulary that a person can read


def encode_prompts(name_or_path: str, prompts: list[str], device: torch.device) -> list[Embedding]:
    """Loads the encoder, encodes all prompts at once, and lets the encoder go.

    Args:
        name_or_path: a folder with `tokenizer/` and `text_encoder/`, or a hub name.
        device: the encoder is read straight to it, in fp32, and gone from it afterwards.

    Raises:
        FileNotFoundError: no such folder, or a hub name that cannot be fetched.
        ValueError: the files do not load.
    """
    model = open_model(name_or_path, KEY, ENCODER_PARTS)
    tokenizer = tokenizer_of(model)
    embedded = _embed(model, tokenizer, prompts, device).cpu()
    room = embedded.shape[1]
    return [
        Embedding(row, _gaps(tokenizer, prompt, room))
        for prompt, row in zip(prompts, embedded, strict=True)
    ]


def embed_prompts(
    name_or_path: str, prompts: list[str], device: torch.device
) -> Float[Tensor, "N L D"]:
    """As `encode_prompts`, but the embeddings alone, on `device`."""
    model = open_model(name_or_path, KEY, ENCODER_PARTS)
    return _embed(model, tokenizer_of(model), prompts, device)


def tokenizer_of(model: NamedModel) -> PreTrainedTokenizerBase:
    """The tokenizer of an open model; raises as `encode_prompts`."""
    model.read("tokenizer")
    return load_tokenizer(model.files.path / "tokenizer", model.described)


def load_tokenizer(folder: Path, described: str) -> PreTrainedTokenizerBase:
    """A tokenizer of transformers' own, never one whose code lies in the folder.

    Args:
        described: what the user calls it, such as a config key and its value, for errors.

    Raises:
        ValueError: it does not load, or it would run code.
    """
    try:
        config = folder / "tokenizer_config.json"
        if config.is_file() and "auto_map" in json.loads(config.read_text()):
            raise ValueError("it brings code of its own (auto_map), which is never run")
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers and tokenizers raise all sorts
        raise ValueError(
            f"{described}: the tokenizer in {folder} does not load "
            f"({(str(error).splitlines() or [''])[0]}). Download the model again."
        ) from error


@torch.no_grad()
def _embed(
    model: NamedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    device: torch.device,
) -> Float[Tensor, "N L D"]:
    """L is the room for tokens, for the longest prompt that the encoder takes."""
    encoder = model.load(CLIPTextModel, "text_encoder", device, torch.float32)
    room = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
    tokens = tokenizer(
        prompts, padding="max_length", max_length=room, truncation=True, return_tensors="pt"
    )
    hidden = [encoder(ids.to(device))[0].float() for ids in tokens.input_ids.split(BATCH)]
    return torch.cat(hidden)


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
