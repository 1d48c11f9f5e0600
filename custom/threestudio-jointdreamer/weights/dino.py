"""A backbone as facebookresearch/dino saves it, in the layout of facebook/dino-vits16."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

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
    return config, dict(part for name, tensor in weights.items() for part in _parts(name, tensor))


def _parts(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """What becomes of one tensor; the reference stacks queries, keys and values."""
    module, _, kind = name.rpartition(".")
    if not name.startswith("blocks."):
        return [(OUTSIDE.get(name) or f"{OUTSIDE.get(module, module)}.{kind}", tensor)]
    _, number, layer = module.split(".", 2)
    block = f"encoder.layer.{number}"
    if layer == "attn.qkv" and tensor.shape[0] % len(QKV) == 0:
        names = [f"{block}.attention.attention.{part}.{kind}" for part in QKV]
        rows = tensor.chunk(len(QKV))
        return [(name, part.clone()) for name, part in zip(names, rows, strict=True)]
    return [(f"{block}.{IN_BLOCK.get(layer, layer)}.{kind}", tensor)]


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
