"""Checkpoints as their authors publish them, in miniature: LDM's names, random weights.

Names and shapes are the references' own, as the parity fixtures recorded them.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

FIXTURES = Path(__file__).resolve().parents[1] / "parity" / "fixtures"
UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP = "cond_stage_model.model."
STEPS = 1000
SCHEDULE = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)


@cache
def shapes(case: str) -> dict[str, list[int]]:
    """A reference's parameters at reduced width, by their own names."""
    return json.loads((FIXTURES / f"{case}.json").read_text())["shapes"]


def random_weights(case: str, prefix: str = "") -> dict[str, Tensor]:
    """Small random weights for a case of the parity fixtures; the tensors are shared by all."""
    return {prefix + name: tensor for name, tensor in _random(case).items()}


@cache
def _random(case: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(len(case))
    return {
        name: 0.05 * torch.randn(shape, generator=generator) for name, shape in shapes(case).items()
    }


def schedule_buffers() -> dict[str, Tensor]:
    """All that LDM saves of its noise schedule; what nobody reads is filled with ones."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, STEPS, dtype=torch.float64) ** 2
    buffers = {name: torch.ones(STEPS) for name in SCHEDULE}
    alphas_cumprod = torch.cumprod(1 - betas, 0)
    return buffers | {"betas": betas.float(), "alphas_cumprod": alphas_cumprod.float()}


def mvdream(base: str = "sd15") -> dict[str, Tensor]:
    """MVDream's file on Stable Diffusion 1.5 (`sd15`) or 2.1 (`sd21`)."""
    return {
        **random_weights(f"mvdream-{base}", UNET),
        **random_weights("mvdream-vae", VAE),
        **schedule_buffers(),
        "cond_stage_model.model.ln_final.weight": torch.ones(48),
        "cond_stage_model.model.token_embedding.weight": torch.ones(9, 48),
    }


def stable_diffusion(base: str = "sd15") -> dict[str, Tensor]:
    """The same model without a camera: Stable Diffusion 1 or 2."""
    return {
        name: tensor
        for name, tensor in mvdream(base).items()
        if not name.startswith(f"{UNET}camera_embed")
    }


def zero123() -> dict[str, Tensor]:
    """Zero-1-to-3's state dict, with averaged weights that differ from the plain ones."""
    weights = random_weights("zero123")
    averages = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): tensor + 1
        for name, tensor in weights.items()
        if name.startswith(UNET)
    }
    return {
        **weights,
        **averages,
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(7),
        **random_weights("mvdream-vae", VAE),
        **random_weights("zero123-clip", f"{CLIP}visual."),
        f"{CLIP}positional_embedding": torch.ones(77, 8),
        f"{CLIP}text_projection": torch.ones(8, 8),
        f"{CLIP}logit_scale": torch.tensor(1.0),
        f"{CLIP}token_embedding.weight": torch.ones(9, 8),
        f"{CLIP}ln_final.weight": torch.ones(8),
        f"{CLIP}ln_final.bias": torch.ones(8),
        **schedule_buffers(),
    }


def imagedream() -> dict[str, Tensor]:
    """ImageDream's file on Stable Diffusion 2.1, with the CLIP that it looks with."""
    return {
        **random_weights("imagedream", UNET),
        **random_weights("mvdream-vae", "vae_model."),
        **random_weights("zero123-clip", "clip_model.model.visual."),
        "clip_model.model.ln_final.weight": torch.ones(48),
        "clip_model.model.token_embedding.weight": torch.ones(9, 48),
        **schedule_buffers(),
    }


def lightning_checkpoint(state_dict: dict[str, Tensor]) -> dict:
    """What Lightning 1.4 puts around the weights: callbacks by their class, NumPy's scalars."""
    return {
        "epoch": 3,
        "global_step": 105000,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": state_dict,
        "callbacks": {ModelCheckpoint: {"best_model_score": np.float64(0.5), "monitor": "loss"}},
        "optimizer_states": [{"state": {0: {"step": 5, "exp_avg": torch.zeros(3)}}}],
    }


def save_unet_folder(path: Path, unet: dict[str, Tensor], **config) -> Path:
    """A folder in diffusers' layout whose UNet is MVDream's own class, as people publish it."""
    (path / "unet").mkdir(parents=True)
    config = {"_class_name": "MultiViewUNetModel", "model_channels": 32, **config}
    (path / "unet" / "config.json").write_text(json.dumps(config))
    torch.save(unet, path / "unet" / "diffusion_pytorch_model.bin")
    return path
