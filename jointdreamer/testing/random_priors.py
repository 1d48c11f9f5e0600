"""Random diffusion priors in the usual folder layouts: tiny for tests, or at full size."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from ..tinyworld.models import (
    CAMERA,
    TEXT_WIDTH,
    build_scheduler,
    build_tokenizer,
    build_unet,
    build_vae,
    text_config,
)

WORDS = """a an and the of with on in wearing red green blue yellow purple orange white black hat
backpack bear cat dog rabbit frog pig front side back overhead view photo cube""".split()


def build_stable_diffusion(
    path: Path | str, seed: int = 0, width: int = 32, prediction_type: str = "epsilon"
) -> Path:
    """unet/, vae/, text_encoder/, tokenizer/ and scheduler/ of a tiny latent diffusion model.

    Images are 64x64, latents 4x16x16, text embeddings [24, 128], as the tiny world's.

    Args:
        width: channels of the UNet's first level; a multiple of 8.
    """
    path = Path(path)
    torch.manual_seed(seed)
    _unet(width).save_pretrained(path / "unet")
    tiny_vae().save_pretrained(path / "vae")
    _text_encoder(path)
    build_scheduler(prediction_type).save_pretrained(path / "scheduler")
    return path


def build_mvdream(
    path: Path | str, seed: int = 0, width: int = 32, latent_size: int = 16, with_vae: bool = False
) -> Path:
    """unet/ and scheduler/ of a tiny multi-view model, and vae/ where asked for."""
    path = Path(path)
    torch.manual_seed(seed)
    _unet(width, True, latent_size).save_pretrained(path / "unet")
    if with_vae:
        tiny_vae().save_pretrained(path / "vae")
    build_scheduler().save_pretrained(path / "scheduler")
    return path


def build_full_size(path: Path | str, seed: int = 0, multiview: bool = False) -> Path:
    """Stable Diffusion 2.1 base or MVDream, with random fp16 weights.

    Its text encoder is as wide as the original, but has one layer and the tiny models' tokenizer.
    """
    path = Path(path)
    torch.manual_seed(seed)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        unet = UNet2DConditionModel(
            sample_size=32 if multiview else 64,
            cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
            **(CAMERA if multiview else {}),
        )
        unet.half().save_pretrained(path / "unet")
        if not multiview:
            vae = full_size_vae(512)
            vae.half().save_pretrained(path / "vae")
    if not multiview:
        _text_encoder(path, width=1024)
    build_scheduler().save_pretrained(path / "scheduler")
    return path


def full_size_vae(image_size: int) -> AutoencoderKL:
    channels = (128, 256, 512, 512)
    return build_vae(channels, layers_per_block=2, norm_num_groups=32, sample_size=image_size)


def tiny_vae() -> AutoencoderKL:
    return build_vae((8, 16, 16), norm_num_groups=8, scaling_factor=0.5)


def _unet(width: int, multiview: bool = False, latent_size: int = 16) -> UNet2DConditionModel:
    return build_unet(
        multiview,
        sample_size=latent_size,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(width, 2 * width),
        attention_head_dim=2,
        norm_num_groups=8,
    )


def _text_encoder(path: Path, width: int = TEXT_WIDTH) -> None:
    tokenizer = build_tokenizer(WORDS)
    tokenizer.save_pretrained(path / "tokenizer")
    sizes = text_config(tokenizer, width) | {"intermediate_size": 2 * width, "num_hidden_layers": 1}
    CLIPTextModel(CLIPTextConfig(**sizes)).save_pretrained(path / "text_encoder")
