"""Stable Diffusion 2.1 base and MVDream: their architectures, and folders of them at low width."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from jointdreamer.testing.random_priors import CAMERA, build_full_size, build_stable_diffusion

FULL_WIDTH = (320, 640, 1280, 1280)
LOW_WIDTH = (32, 32, 64, 64)
TEXT_WIDTH = 128
PIPELINE = {  # model_index.json of a pipeline that threestudio's own guidance can load
    "_class_name": "StableDiffusionPipeline",
    "requires_safety_checker": False,
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "safety_checker": [None, None],
    "scheduler": ("diffusers", "DDIMScheduler"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "PreTrainedTokenizerFast"),
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
}


def full_size_unet(camera: bool) -> UNet2DConditionModel:
    """The published architecture; `camera` makes it MVDream's."""
    return _unet(FULL_WIDTH, (5, 10, 20, 20), 1024, 64, camera)


def _unet(width, heads, text_width: int, latent_size: int, camera: bool) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=latent_size,
        block_out_channels=width,
        attention_head_dim=heads,
        cross_attention_dim=text_width,
        use_linear_projection=True,
        **(CAMERA if camera else {}),
    )


def build_small_stable_diffusion(path: Path, latent_size: int = 8) -> None:
    """All of SD 2.1's blocks, at a tenth of its width; images have 8 times the latents' size."""
    build_stable_diffusion(path)  # tokenizer and scheduler
    torch.manual_seed(0)
    unet = _unet(LOW_WIDTH, (1, 2, 2, 4), TEXT_WIDTH, latent_size, camera=False)
    unet.save_pretrained(path / "unet")
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 16, 16, 16),
        layers_per_block=2,
        norm_num_groups=8,
        sample_size=64,
    ).save_pretrained(path / "vae")
    config = CLIPTextConfig.from_pretrained(path / "text_encoder")
    config.num_hidden_layers, config.hidden_act = 2, "gelu"  # OpenCLIP's activation, as SD 2.1
    CLIPTextModel(config).save_pretrained(path / "text_encoder")


def build_small_mvdream(path: Path, latent_size: int = 4) -> None:
    """MVDream's blocks at the same width; its latents are half as large as SD 2.1's."""
    torch.manual_seed(1)
    unet = _unet(LOW_WIDTH, (1, 2, 2, 4), TEXT_WIDTH, latent_size, camera=True)
    unet.save_pretrained(path / "unet")
    DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    ).save_pretrained(path / "scheduler")


@dataclass
class Pipelines:
    """Folders of the two priors.

    Attributes:
        size: `reduced`: all blocks at a tenth of the width; `full`: the published architectures.
    """

    size: str
    stable_diffusion: Path
    mvdream: Path


def build_pipelines(folder: Path, size: str = "reduced") -> Pipelines:
    """Writes both as threestudio 0.2.3 wants them, which makes 512x512 pictures, 64x64 latents.

    Text encoder and tokenizer are small ones in either size.
    """
    made = Pipelines(size, folder / "stable-diffusion", folder / "mvdream")
    if size == "full":
        build_full_size(made.stable_diffusion, seed=0)
        build_full_size(made.mvdream, seed=1, multiview=True)
    elif size == "reduced":
        build_small_stable_diffusion(made.stable_diffusion, latent_size=64)
        build_small_mvdream(made.mvdream, latent_size=32)
    else:
        raise ValueError(f"size={size!r}: use reduced or full.")
    (made.stable_diffusion / "model_index.json").write_text(json.dumps(PIPELINE))
    return made
