"""Wonder3D: the UNet of xxlong0/Wonder3D's checkout against ours, normals and colours together.

The checkout needs einops beside our own requirements. It was written for diffusers 0.19.3; what it
imports from there has moved since, which is put right below. That changes no number: run on 0.19.3
itself, it gives the same fixtures, bit for bit. Its xformers attention, which its own commands
switch on, runs with a plain softmax here.
"""

import importlib
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from threestudio_jointdreamer.priors.multiview import use_cross_view_attention
from threestudio_jointdreamer.priors.wonder3d import (
    COLOURS,
    EMBEDDED_ANGLES,
    NORMALS,
    camera_and_domain,
)
from threestudio_jointdreamer.priors.wonder3d_unet import Wonder3DUNet
from threestudio_jointdreamer.weights.assembling import assemble
from torch import Tensor, nn

from benchmarks.parity.checkouts import importing_from
from benchmarks.parity.seeded import noise

ENVIRONMENT = "WONDER3D_ROOT"
SOURCE = "github.com/xxlong0/Wonder3D at d894f82, mvdiffusion/models"
SIZES = {
    "reduced": {"block_out_channels": [32, 64, 128, 128], "cross_attention_dim": 48},
    "full": {"block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768},
}
CASES: dict[str, dict[str, Any]] = {
    "wonder3d": {"cd_attention_mid": True},
    "wonder3d-stage1": {"cd_attention_mid": False},  # before it had cross-domain attention
}
CONFIG = {  # flamehaze1115/wonder3d-v1.0, unet/config.json, but for its defaults
    "in_channels": 8,
    "out_channels": 4,
    "sample_size": 32,
    "attention_head_dim": 8,
    "down_block_types": ["CrossAttnDownBlockMV2D"] * 3 + ["DownBlock2D"],
    "mid_block_type": "UNetMidBlockMV2DCrossAttn",
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlockMV2D"] * 3,
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": 10,
    "num_views": 6,
    "cd_attention_last": False,
    "multiview_attention": True,
    "sparse_mv_attention": False,
    "mvcd_attention": False,
}
N_VIEW, TIMESTEP, SEED = 6, 400, 31


def inputs(case: str, size: str) -> dict[str, Tensor]:
    """Six views of an object's normals, then of its colours: noisy latents of 8x8, joined to the
    reference's; its embedding; what each picture is.
    """
    width = SIZES[size]["cross_attention_dim"]
    angles = torch.tensor(EMBEDDED_ANGLES, dtype=torch.float64)
    return {
        "sample": noise(f"{case}.sample", (2 * N_VIEW, 8, 8, 8), SEED),
        "timestep": torch.full((2 * N_VIEW,), TIMESTEP),
        "image": noise(f"{case}.image", (2 * N_VIEW, 1, width), SEED),
        "camera": torch.cat([camera_and_domain(angles, d) for d in (NORMALS, COLOURS)]),
    }


def build_reference(root: str | Path, case: str, size: str) -> nn.Module:
    """The checkout's UNetMV2DConditionModel."""
    with importing_from(root, stubs=_what_has_moved()):
        unet = importlib.import_module("mvdiffusion.models.unet_mv2d_condition")
        transformer = importlib.import_module("mvdiffusion.models.transformer_mv2d")
    plain = SimpleNamespace(memory_efficient_attention=_attention)
    transformer.xformers = SimpleNamespace(ops=plain)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its layers are deprecated
        model = unet.UNetMV2DConditionModel(**CONFIG | CASES[case] | SIZES[size])
    for module in model.modules():
        if isinstance(module, transformer.CustomAttention | transformer.CustomJointAttention):
            module.set_use_memory_efficient_attention_xformers(True)
    return model


def run(module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    return module(
        inputs["sample"],
        inputs["timestep"],
        encoder_hidden_states=inputs["image"],
        class_labels=inputs["camera"],
    ).sample


run_reference = run_ours = run


def build_ours(state_dict: dict[str, Tensor], case: str, size: str) -> nn.Module:
    """Loaded as the published folder is."""
    unet = assemble(Wonder3DUNet, CONFIG | CASES[case] | SIZES[size], state_dict)
    return use_cross_view_attention(unet, N_VIEW)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_bias: Tensor | None = None
) -> Tensor:
    """softmax(Q Kᵀ / √d) V, which is what xformers' function computes, for [B L d]."""
    scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
    return (scores if attn_bias is None else scores + attn_bias).softmax(dim=-1) @ value


def _what_has_moved() -> dict[str, dict[str, Any]]:
    """diffusers' modules as the checkout expects them, of what the installed version has."""

    def contents(name: str, **more: Any) -> dict[str, Any]:
        return vars(importlib.import_module(name)) | more

    normalization = contents("diffusers.models.normalization")
    unused = {"DIFFUSERS_CACHE": "", "FLAX_WEIGHTS_NAME": "", "HF_HUB_OFFLINE": True}
    marker = contents("diffusers.utils.torch_utils")["maybe_allow_in_graph"]
    return {
        "diffusers.utils": contents("diffusers.utils", maybe_allow_in_graph=marker, **unused),
        "diffusers.models.modeling_utils": contents(
            "diffusers.models.modeling_utils", _load_state_dict_into_model=None
        ),
        "diffusers.models.attention": contents(
            "diffusers.models.attention", AdaGroupNorm=normalization["AdaGroupNorm"]
        ),
        "diffusers.models.unet_2d_blocks": contents("diffusers.models.unets.unet_2d_blocks"),
        "diffusers.models.dual_transformer_2d": {"DualTransformer2DModel": None},
    }
