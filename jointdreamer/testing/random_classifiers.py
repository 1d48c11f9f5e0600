"""Tiny random DINO backbones and pair classifiers in the layouts that are published."""

from pathlib import Path

import torch
from threestudio_jointdreamer.priors.dino import match_dino
from threestudio_jointdreamer.priors.pair_classifier import PairClassifier, PairHead
from threestudio_jointdreamer.weights.ldm.dino import to_transformers
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

WIDTH = 32
HEAD_DIM = 16
DEPTH = 2
PATCH = 8
IMAGE_SIZE = 32


def original_dino(seed: int = 0, width: int = WIDTH, side: int = IMAGE_SIZE // PATCH) -> dict:
    """Random weights under the names that facebookresearch/dino gives them."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return 0.2 * torch.randn(*shape, generator=generator)

    weights = {
        "cls_token": randn(1, 1, width),
        "pos_embed": randn(1, side**2 + 1, width),
        "patch_embed.proj.weight": randn(width, 3, PATCH, PATCH),
        "patch_embed.proj.bias": randn(width),
        "norm.weight": 1 + randn(width),
        "norm.bias": randn(width),
    }
    for i in range(DEPTH):
        linear = {
            "attn.qkv": (3 * width, width),
            "attn.proj": (width, width),
            "mlp.fc1": (4 * width, width),
            "mlp.fc2": (width, 4 * width),
        }
        for name, shape in linear.items():
            weights[f"blocks.{i}.{name}.weight"] = randn(*shape)
            weights[f"blocks.{i}.{name}.bias"] = randn(shape[0])
        for name in ("norm1", "norm2"):
            weights[f"blocks.{i}.{name}.weight"] = 1 + randn(width)
            weights[f"blocks.{i}.{name}.bias"] = randn(width)
    return weights


def build_dino(path: Path | str, seed: int = 0) -> Path:
    """A folder in transformers' layout, of the weights of `original_dino`."""
    random_vit(seed).save_pretrained(path)
    return Path(path)


def random_vit(seed: int = 0) -> ViTModel:
    config, weights = to_transformers(original_dino(seed), head_dim=HEAD_DIM)
    return ViTModel.from_pretrained(
        None, config=ViTConfig(**config), state_dict=weights, add_pooling_layer=False
    ).eval()


def random_classifier(seed: int = 0, gain: float = 30.0, **changes) -> PairClassifier:
    """A pair classifier whose logits spread by a few units.

    Args:
        gain: of the last layer.
        changes: arguments of `PairHead`.
    """
    torch.manual_seed(seed)
    arguments = {"feature_dim": WIDTH, "hidden_dim": 24, "depth": 2, "image_size": IMAGE_SIZE}
    head = PairHead(**arguments | changes)
    nn.init.normal_(head.logit.weight, std=gain / 24)
    return PairClassifier(match_dino(random_vit(seed)), head).eval()


def build_pair_classifier(path: Path | str, seed: int = 0, **changes) -> Path:
    """A folder with head/ and backbone/ of `random_classifier`."""
    random_classifier(seed, **changes).save_pretrained(path)
    return Path(path)


def build_full_size_pair_classifier(path: Path | str, seed: int = 0) -> Path:
    """A random ViT-S/16 and a head of the default size."""
    torch.manual_seed(seed)
    config = ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536)
    backbone = match_dino(ViTModel(config, add_pooling_layer=False))
    PairClassifier(backbone, PairHead()).save_pretrained(path)
    return Path(path)
