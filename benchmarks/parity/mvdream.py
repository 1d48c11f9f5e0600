"""MVDream: bytedance/MVDream's multi-view UNets and autoencoder against ours.

The checkout needs einops beside our own requirements. Its UNet is compared with the stock UNet and
our cross-view attention, for both published architectures: on Stable Diffusion 2.1 (heads of 64
channels, linear projections) and on 1.5 (8 heads, 1x1 kernels).
"""

import importlib
import io
from contextlib import redirect_stdout
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from threestudio_jointdreamer.priors.multiview import (
    CAMERA_DIM,
    camera_condition,
    use_cross_view_attention,
)
from torch import Tensor, nn

from benchmarks.parity.checkouts import importing_from
from benchmarks.parity.ldm import converted, reference_unet
from benchmarks.parity.seeded import noise

ENVIRONMENT = "MVDREAM_ROOT"
SOURCE = "github.com/bytedance/MVDream at 618f844, mvdream/ldm"
SIZES = {
    "reduced": {"width": 32, "text": 48, "vae": 32, "head_dim": 16, "objects": 2},
    "full": {"width": 320, "text": None, "vae": 128, "head_dim": 64, "objects": 1},
}
CASES = {
    "mvdream-sd21": {"text": 1024, "linear": True},
    "mvdream-sd15": {"text": 768, "linear": False},
    "mvdream-vae": {},
}
N_VIEW, N_HEADS, TOKENS, TIMESTEP, SEED = 4, 8, 5, 400, 30
LAYERS = "mvdream.ldm.modules"


def inputs(case: str, size: str) -> dict[str, Tensor]:
    """Noisy latents of 8x8 of the views of two objects (one at full width), texts, cameras.

    For the autoencoder a picture.
    """
    if case == "mvdream-vae":
        return {"sample": noise(f"{case}.sample", (1, 3, 32, 32), SEED)}
    batch = SIZES[size]["objects"] * N_VIEW
    return {
        "sample": noise(f"{case}.sample", (batch, 4, 8, 8), SEED),
        "timestep": torch.full((batch,), TIMESTEP),
        "text": noise(f"{case}.text", (batch, TOKENS, _text_width(case, size)), SEED),
        "camera": camera_condition(noise(f"{case}.camera", (batch, 4, 4), SEED)),
    }


def _text_width(case: str, size: str) -> int:
    return SIZES[size]["text"] or CASES[case]["text"]


def build_reference(root: str | Path, case: str, size: str, exact: bool = True) -> nn.Module:
    """The checkout's MultiViewUNetModel, or its AutoencoderKL; if `exact` in float64 throughout."""
    talk = redirect_stdout(io.StringIO())  # of its layers about themselves
    with talk, importing_from(root, bare=["mvdream"]):
        if case == "mvdream-vae":
            return _reference_vae(SIZES[size]["vae"], exact)
        if exact:
            attention = importlib.import_module(f"{LAYERS}.attention")
            attention._ATTN_PRECISION = "as it is"  # instead of float32
            attention.XFORMERS_IS_AVAILBLE = False  # which has no float64
        linear, head_dim = CASES[case]["linear"], SIZES[size]["head_dim"]
        return reference_unet(
            f"{LAYERS}.diffusionmodules",
            "MultiViewUNetModel",
            exact,
            in_channels=4,
            model_channels=SIZES[size]["width"],
            context_dim=_text_width(case, size),
            use_linear_in_transformer=linear,
            camera_dim=CAMERA_DIM,
            **({"num_head_channels": head_dim} if linear else {"num_heads": N_HEADS}),
        )


def run_reference(module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    if "camera" not in inputs:
        return module.decode(module.encode(inputs["sample"]).mode())
    return module(
        inputs["sample"],
        inputs["timestep"],
        context=inputs["text"],
        camera=inputs["camera"],
        num_frames=N_VIEW,
    )


def build_ours(state_dict: dict[str, Tensor], case: str, size: str) -> nn.Module:
    """Converted as a checkpoint file of these weights would be."""
    if case == "mvdream-vae":
        published = {f"first_stage_model.{name}": value for name, value in state_dict.items()}
        return converted(published, "vae", AutoencoderKL)
    published = {f"model.diffusion_model.{name}": value for name, value in state_dict.items()}
    linear, head_dim = CASES[case]["linear"], SIZES[size]["head_dim"]
    heads = {"head_dim": head_dim} if linear else {"num_heads": N_HEADS}
    unet = converted(published, "unet", UNet2DConditionModel, **heads)
    return use_cross_view_attention(unet, N_VIEW)


def run_ours(module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    if "camera" not in inputs:
        return module.decode(module.encode(inputs["sample"]).latent_dist.mode()).sample
    return module(
        inputs["sample"],
        inputs["timestep"],
        encoder_hidden_states=inputs["text"],
        class_labels=inputs["camera"],
    ).sample


def _reference_vae(width: int, exact: bool) -> nn.Module:
    autoencoder = importlib.import_module("mvdream.ldm.models.autoencoder")
    if exact:
        importlib.import_module(f"{LAYERS}.diffusionmodules.model").XFORMERS_IS_AVAILBLE = False
    config = {
        "double_z": True,
        "z_channels": 4,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": width,
        "ch_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    return autoencoder.AutoencoderKL(config, {"target": "torch.nn.Identity"}, embed_dim=4)
