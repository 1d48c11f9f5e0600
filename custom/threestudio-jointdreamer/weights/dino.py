"""A backbone as facebookresearch/dino saves it, in the layout of facebook/dino-vits16."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .state_dicts import check_state_dict

LAYER_NORM_EPS = 1e-6
HEAD_DIM = 64  # channels of an attention head in every ViT of DINO
WRAPPERS = ("module.", "backbone.")  # prefixes that DINO's training puts before the backbone's keys
UNUSED = "head."  # keys of the projection head, which is used in DINO's own training only
TELLTALES = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight")
QKV = ("query", "key", "value")
OUTSIDE = {  # the reference's name and the published one
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
IN_BLOCK = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


@dataclass(frozen=True)
class DinoCheckpoint:
    """A checkpoint file of DINO, whose one part has no name.

    Attributes:
        path: the file, for errors.
        weights: by the reference's names.
    """

    path: Path
    weights: Mapping[str, Tensor]
    kind = "DINO's vision transformer"
    parts = ("",)

    def has(self, part: str) -> bool:
        return not part

    def files(self, part: str) -> list[Path]:
        return [self.path]

    def read(self, part: str) -> tuple[dict, dict[str, Tensor]]:
        """The config and weights of a ViTModel without a pooler; raises as `to_transformers`."""
        if part:
            raise ValueError(f"{self.path} ({self.kind}) has no {part}.")
        try:
            return to_transformers(self.weights)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error


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
        ValueError: keys are missing, unknown or misshapen; they are named.
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
    try:
        check_state_dict(weights, _shapes(config))
    except ValueError as error:
        raise ValueError(
            f"The weights are no complete DINO vision transformer: {error}. "
            "Download the file again."
        ) from error
    return config, dict(part for name, tensor in weights.items() for part in _parts(name, tensor))


def _parts(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """What becomes of one tensor; the reference stacks queries, keys and values."""
    module, _, kind = name.rpartition(".")
    if not name.startswith("blocks."):
        renamed = OUTSIDE.get(name) or f"{OUTSIDE[module]}.{kind}"
        return [(renamed, tensor)]
    _, number, layer = module.split(".", 2)
    block = f"encoder.layer.{number}"
    if layer == "attn.qkv":
        names = [f"{block}.attention.attention.{name}.{kind}" for name in QKV]
        return [(n, rows.clone()) for n, rows in zip(names, tensor.chunk(3), strict=True)]
    return [(f"{block}.{IN_BLOCK[layer]}.{kind}", tensor)]


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


def _shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """The shape of every weight of the reference's model with this config."""
    D, H, P = config["hidden_size"], config["intermediate_size"], config["patch_size"]
    shapes = {
        "cls_token": (1, 1, D),
        "pos_embed": (1, (config["image_size"] // P) ** 2 + 1, D),
    }
    modules = {"patch_embed.proj": (D, config["num_channels"], P, P), "norm": (D,)}
    for i in range(config["num_hidden_layers"]):
        linear = {"attn.qkv": (3 * D, D), "attn.proj": (D, D), "mlp.fc1": (H, D), "mlp.fc2": (D, H)}
        norms = {"norm1": (D,), "norm2": (D,)}
        modules |= {f"blocks.{i}.{name}": shape for name, shape in (linear | norms).items()}
    for name, shape in modules.items():
        shapes[f"{name}.weight"] = shape
        if not name.endswith("attn.qkv") or config["qkv_bias"]:
            shapes[f"{name}.bias"] = shape[:1]
    return shapes
