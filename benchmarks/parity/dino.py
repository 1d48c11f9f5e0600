"""DINO's ViT-S/16: facebookresearch/dino's vision_transformer.py against ours.

The output is the class token's features, the gradient that with respect to the image. Sizes other
than 224 pixels hold our interpolation of position embeddings to the reference's: smaller, larger,
not square, and no whole number of patches.
"""

import importlib
import tempfile
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float64
from safetensors.torch import save_file
from threestudio_jointdreamer.priors.dino import cls_features, load_dino
from threestudio_jointdreamer.weights.ldm.dino import to_transformers
from torch import Tensor, nn
from transformers import ViTConfig

from benchmarks.parity.checkouts import importing_from
from benchmarks.parity.seeded import noise

ENVIRONMENT = "DINO_ROOT"
SOURCE = "github.com/facebookresearch/dino at 7c446df, vision_transformer.py"
SIZES = {  # all twelve blocks; an attention head has 64 channels in each of DINO's models
    "reduced": {"embed_dim": 128, "num_heads": 2},
    "full": {"embed_dim": 384, "num_heads": 6},
}
CASES = {  # height and width of the image
    "dino-vits16-224": (224, 224),
    "dino-vits16-80": (80, 80),
    "dino-vits16-112x250": (112, 250),
    "dino-vits16-352x320": (352, 320),
}
SEED = 20


def inputs(case: str, size: str) -> dict[str, Float64[Tensor, "1 3 H W"]]:
    """One normalised image."""
    return {"sample": noise(f"{case}.sample", (1, 3, *CASES[case]), SEED)}


def build_reference(root: str | Path, case: str, size: str) -> nn.Module:
    """The checkout's VisionTransformer, at random weights of its own."""
    with importing_from(root):
        return importlib.import_module("vision_transformer").VisionTransformer(
            patch_size=16,
            depth=12,
            mlp_ratio=4,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            **SIZES[size],
        )


def run_reference(module: nn.Module, inputs: dict[str, Tensor]) -> Float64[Tensor, "1 D"]:
    return module(inputs["sample"])


def build_ours(state_dict: dict[str, Tensor], case: str, size: str) -> nn.Module:
    """Converted, written as a folder in the layout of facebook/dino-vits16, loaded from there."""
    config, weights = to_transformers(state_dict)
    config["layer_norm_eps"] = 1e-12  # what the published config says
    with tempfile.TemporaryDirectory() as folder:
        ViTConfig(**config).save_pretrained(folder)
        save_file(weights, f"{folder}/model.safetensors")
        return load_dino(folder, torch.device("cpu"), torch.float64)


def run_ours(module: nn.Module, inputs: dict[str, Tensor]) -> Float64[Tensor, "1 D"]:
    return cls_features(module, inputs["sample"])
