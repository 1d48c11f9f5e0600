"""A backbone as facebookresearch/dino saves it, in the layout of facebook/dino-vits16."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from .renaming import apart, renamed

LAYER_NORM_EPS = 1e-6
HEAD_DIM = 64  # channels of an attention head in every ViT of DINO
WRAPPERS = ("module.", "backbone.")  # prefixes that DINO's training puts before the backbone's keys
UNUSED = "head."  # keys of the projection head, which is used in DINO's own training only
TELLTALES = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight")
QKV = tuple(f".attn.{part}." for part in ("query", "key", "value"))
NAMES = {  # patterns of the reference's, and what the published names have instead
    r"^blocks\.": "encoder.layer.",
    r"\.norm1\.": ".layernorm_before.",
    r"\.attn\.(query|key|value)\.": r".attention.attention.\1.",
    r"\.attn\.proj\.": ".attention.output.dense.",
    r"\.norm2\.": ".layernorm_after.",
    r"\.mlp\.fc1\.": ".intermediate.dense.",
    r"\.mlp\.fc2\.": ".output.dense.",
    r"^norm\.": "layernorm.",
    r"^cls_token$": "embeddings.cls_token",
    r"^pos_embed$": "embeddings.position_embeddings",
    r"^patch_embed\.proj\.": "embeddings.patch_embeddings.projection.",
}


def is_original(names: Iterable[str]) -> bool:
    """Whether these are the keys of a vision transformer as facebookresearch/dino saves it."""
    return set(TELLTALES) <= {_unwrapped(name) for name in names}


def to_transformers(
    state_dict: Mapping[str, Tensor], head_dim: int | None = None
) -> tuple[dict, dict[str, Tensor]]:
    """A facebookresearch/dino backbone as ViTConfig's arguments and weights by published names.

    The names are those of facebook/dino-vits16 (`encoder.layer.0.attention.attention.query...`),
    which every release of transformers reads. Sizes are inferred from the shapes.

    Args:
        head_dim: channels of an attention head, which shapes do not tell; `HEAD_DIM` by default.

    Raises:
        ValueError: it is no DINO vision transformer. Names that are unknown, missing or misshapen
            are for the model's loading to refuse.
    """
    weights = {_unwrapped(name): tensor for name, tensor in state_dict.items()}
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(UNUSED)}
    if not is_original(weights):
        raise ValueError(
            "These are not the weights of a DINO vision transformer: cls_token, pos_embed, "
            "patch_embed.proj or blocks.0 are missing. Give a ViT backbone such as "
            "dino_deitsmall16_pretrain.pth (ResNet-50 and XCiT are not served)."
        )
    config = _config(weights, head_dim or HEAD_DIM)
    weights = apart(weights, ".attn.qkv.", QKV)
    return config, {renamed(name, NAMES): tensor for name, tensor in weights.items()}


def _unwrapped(name: str) -> str:
    for prefix in WRAPPERS:
        name = name.removeprefix(prefix)
    return name


def _config(weights: Mapping[str, Tensor], head_dim: int) -> dict:
    width, channels, patch, _ = weights["patch_embed.proj.weight"].shape
    positions = weights["pos_embed"].shape[1] - 1
    side = math.isqrt(positions)
    if side**2 != positions:
        raise ValueError(
            f"pos_embed holds {positions} patches, which are no square: only backbones trained on "
            "square images are served."
        )
    if width % head_dim:
        raise ValueError(
            f"The features are {width} wide, which does not divide into heads of {head_dim}: give "
            "the head_dim this backbone was trained with."
        )
    hidden = weights.get("blocks.0.mlp.fc1.weight", torch.empty(4 * width, 0)).shape[0]
    blocks = {int(name.split(".")[1]) for name in weights if name.startswith("blocks.")}
    return {
        "hidden_size": width,
        "num_hidden_layers": max(blocks) + 1,
        "num_attention_heads": width // head_dim,
        "intermediate_size": hidden,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": LAYER_NORM_EPS,
        "image_size": side * patch,
        "patch_size": patch,
        "num_channels": channels,
        "qkv_bias": "blocks.0.attn.qkv.bias" in weights,
    }
