"""Runs a prior's tokenizers and text encoders over prompts, and finds words they do not know."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import (
    AutoTokenizer,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerBase,
    T5EncoderModel,
)

from ..priors.latent_prior import join_pooled
from ..weights.models import NamedModel, open_model
from .cache import ENCODER_PARTS, SECOND, T5, Embedding, Gaps

KEY = "system.prompt_processor.pretrained_model_name_or_path"
BATCH = 1024  # prompts
T5_ROOM = 256  # tokens, as diffusers
LISTABLE = 500  # a vocabulary that a person can read


def encode_prompts(
    name_or_path: str, prompts: list[str], device: torch.device, t5: bool = True
) -> list[Embedding]:
    """Loads the encoders, encodes all prompts at once, and lets the encoders go.

    Args:
        name_or_path: a folder with `tokenizer/` and `text_encoder/`, or a hub name; SDXL's has two
            of them, Stable Diffusion 3's three.
        device: the encoders are read straight to it, in fp32 (T5 in bf16 on a GPU), and gone from
            it afterwards.
        t5: false leaves out Stable Diffusion 3's third encoder.

    Raises:
        FileNotFoundError: no such folder, or a hub name that cannot be fetched.
        ValueError: the files do not load.
    """
    model = _open(name_or_path, t5)
    embedded = _embed(model, prompts, device, t5).cpu()
    has_t5 = t5 and model.has(T5[0])
    tokenizer = tokenizer_of(model, T5[0] if has_t5 else ENCODER_PARTS[0])
    room = T5_ROOM if has_t5 else _room(tokenizer, model.read(ENCODER_PARTS[1])[0])
    return [
        Embedding(row, _gaps(tokenizer, prompt, room))
        for prompt, row in zip(prompts, embedded, strict=True)
    ]


def embed_prompts(
    name_or_path: str, prompts: list[str], device: torch.device
) -> Float[Tensor, "N L D"]:
    """As `encode_prompts`, but the embeddings alone, on `device`."""
    return _embed(_open(name_or_path, t5=True), prompts, device, t5=True)


def tokenizer_of(model: NamedModel, part: str = ENCODER_PARTS[0]) -> PreTrainedTokenizerBase:
    """A tokenizer of an open model; raises as `encode_prompts`."""
    model.read(part)
    return load_tokenizer(model.files.path / part, model.described)


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


def _open(name_or_path: str, t5: bool) -> NamedModel:
    """With all the encoders that there are; only the hub has to be asked for them."""
    model, parts = open_model(name_or_path, KEY, ENCODER_PARTS), [*ENCODER_PARTS]
    for more in (SECOND, T5 if t5 else ()):
        if not more or model.has(more[1]):
            continue
        try:
            model = open_model(name_or_path, KEY, [*parts, *more])
        except FileNotFoundError:
            break
        parts += more
    return model


@torch.no_grad()
def _embed(
    model: NamedModel, prompts: list[str], device: torch.device, t5: bool
) -> Float[Tensor, "N L D"]:
    """L is the room for tokens, for the longest prompt that the encoders take.

    As diffusers' pipelines: one encoder gives its last layer. Two give the last but one, side by
    side. Encoders that project their pooled embedding have it joined as one more token: in SDXL the
    second one, where the empty prompt is zeros unless model_index.json says otherwise; in Stable
    Diffusion 3 both, and T5's tokens (zeros if it is left out) follow CLIP's.
    """
    if not model.has(SECOND[1]):
        text, pooled = _clip(model, ENCODER_PARTS, prompts, device, layer=-1)
        return text if pooled is None else join_pooled(text, pooled)
    both = [_clip(model, parts, prompts, device, layer=-2) for parts in (ENCODER_PARTS, SECOND)]
    text, pooled = torch.cat([hidden for hidden, _ in both], dim=-1), [x for _, x in both]
    if pooled[0] is None:
        text = join_pooled(text, pooled[1])
        if _index(model).get("force_zeros_for_empty_prompt", True):
            text[[not prompt for prompt in prompts]] = 0
        return text
    of_t5 = _t5(model, prompts, device, t5)
    text = torch.cat([F.pad(text, (0, of_t5.shape[-1] - text.shape[-1])), of_t5], dim=1)
    return join_pooled(text, torch.cat(pooled, dim=-1))


def _clip(
    model: NamedModel, parts: Sequence[str], prompts: list[str], device: torch.device, layer: int
) -> tuple[Float[Tensor, "N L D"], Float[Tensor, "N P"] | None]:
    """A layer of a CLIP text encoder (-1: the last one, normalised), and its pooled embedding."""
    tokenizer = tokenizer_of(model, parts[0])
    config, _ = contents = model.read(parts[1])
    projects = "CLIPTextModelWithProjection" in (config.get("architectures") or ())
    kind = CLIPTextModelWithProjection if projects else CLIPTextModel
    encoder = model.load(kind, parts[1], device, torch.float32, contents)
    hidden, pooled = [], []
    for ids in _tokens(tokenizer, prompts, _room(tokenizer, config)).split(BATCH):
        out = encoder(ids.to(device), output_hidden_states=layer != -1)
        hidden.append(out.last_hidden_state if layer == -1 else out.hidden_states[layer])
        pooled.append(out.text_embeds if projects else None)
    return torch.cat(hidden).float(), torch.cat(pooled).float() if projects else None


def _t5(
    model: NamedModel, prompts: list[str], device: torch.device, t5: bool
) -> Float[Tensor, "N L D"]:
    if not (t5 and model.has(T5[1])):
        width = json.loads(model.files.files("transformer")[0].read_text())["joint_attention_dim"]
        return torch.zeros(len(prompts), T5_ROOM, width, device=device)
    dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
    encoder = model.load(T5EncoderModel, T5[1], device, dtype)
    ids = _tokens(tokenizer_of(model, T5[0]), prompts, T5_ROOM).to(device)
    return torch.cat([encoder(some).last_hidden_state.float() for some in ids.split(BATCH)])


def _index(model: NamedModel) -> dict[str, Any]:
    file = model.files.path / "model_index.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def _room(tokenizer: PreTrainedTokenizerBase, config: dict[str, Any]) -> int:
    return min(tokenizer.model_max_length, config.get("max_position_embeddings", 77))


def _tokens(
    tokenizer: PreTrainedTokenizerBase, prompts: list[str], room: int
) -> Int[Tensor, "N L"]:
    return tokenizer(
        prompts, padding="max_length", max_length=room, truncation=True, return_tensors="pt"
    ).input_ids


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
