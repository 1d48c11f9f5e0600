"""Random models that look at a picture, as published: Wonder3D, Zero-1-to-3, ImageDream."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from threestudio_jointdreamer.priors.imagedream_unet import ImageDreamUNet
from threestudio_jointdreamer.priors.wonder3d_unet import Wonder3DUNet
from threestudio_jointdreamer.priors.zero123 import CCProjection
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ..tinyworld.models import CAMERA, build_scheduler
from .random_priors import full_size_vae, tiny_unet, tiny_vae

CLIP_WIDTH = 24
UNET = {
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": CLIP_WIDTH,
    "norm_num_groups": 8,
    "in_channels": 8,
    "out_channels": 4,
}
WONDER3D = {
    "_class_name": "UNetMV2DConditionModel",
    "_diffusers_version": "0.19.3",
    "down_block_types": ["CrossAttnDownBlockMV2D", "DownBlock2D"],
    "mid_block_type": "UNetMidBlockMV2DCrossAttn",
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlockMV2D"],
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": 10,
    "num_views": 6,
    "cd_attention_last": False,
    "cd_attention_mid": True,
    "multiview_attention": True,
    "mvcd_attention": False,
    "sparse_mv_attention": False,
}


def build_wonder3d(
    path: Path | str, seed: int = 0, latent_size: int = 16, rename=lambda name: name, **config
) -> Path:
    """unet/, vae/, image_encoder/ and scheduler/ as flamehaze1115/wonder3d-v1.0, very small.

    Args:
        rename: from today's names of the UNet's weights to others.
        config: entries of the UNet's config to change.
    """
    path = Path(path)
    torch.manual_seed(seed)
    config = UNET | WONDER3D | {"sample_size": latent_size} | config
    unet = Wonder3DUNet.from_config(config)
    (path / "unet").mkdir(parents=True)
    (path / "unet" / "config.json").write_text(json.dumps(config))
    weights = {rename(name): value for name, value in unet.state_dict().items()}
    save_file(weights, path / "unet" / "diffusion_pytorch_model.safetensors")
    return _with_the_rest(path)


def build_full_size_wonder3d(path: Path | str, seed: int = 0) -> Path:
    """The published architecture, all four models of it, with random fp16 weights (2.5 GB)."""
    path = Path(path)
    torch.manual_seed(seed)
    config = WONDER3D | {
        "down_block_types": ["CrossAttnDownBlockMV2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlockMV2D"] * 3,
        "in_channels": 8,
        "sample_size": 32,
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    }
    clip = CLIPVisionConfig(  # ViT-L/14
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        patch_size=14,
        projection_dim=768,
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        Wonder3DUNet.from_config(config).half().save_pretrained(path / "unet")
        full_size_vae(256).half().save_pretrained(path / "vae")
        CLIPVisionModelWithProjection(clip).half().save_pretrained(path / "image_encoder")
    build_scheduler().save_pretrained(path / "scheduler")
    return path


def build_zero123(path: Path | str, seed: int = 0, latent_size: int = 16) -> Path:
    """unet/, vae/, image_encoder/, cc_projection/ and scheduler/ as kxic/zero123-xl, very small."""
    path = Path(path)
    torch.manual_seed(seed)
    UNet2DConditionModel(
        **UNET,
        sample_size=latent_size,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).save_pretrained(path / "unet")
    CCProjection(CLIP_WIDTH + 4, CLIP_WIDTH).save_pretrained(path / "cc_projection")
    return _with_the_rest(path)


def build_imagedream(path: Path | str, seed: int = 0, with_vae: bool = True) -> Path:
    """unet/, vae/, image_encoder/ and scheduler/ of a tiny ImageDream; texts are [24, 128]."""
    path = Path(path)
    torch.manual_seed(seed)
    projection = {"embed_dims": 32, "hidden_dims": 16, "output_dims": 128}
    projection |= {"depth": 1, "dim_head": 8, "heads": 2, "num_queries": 4}
    config = dict(tiny_unet(multiview=True).config) | {"image_projection": projection}
    ImageDreamUNet.from_config(config).save_pretrained(path / "unet")
    _with_the_rest(path)
    if not with_vae:
        shutil.rmtree(path / "vae")
    return path


def build_full_size_imagedream(path: Path | str, seed: int = 0) -> Path:
    """The published architecture, all models of it, with random fp16 weights (3.3 GB)."""
    path = Path(path)
    torch.manual_seed(seed)
    projection = {"embed_dims": 1280, "hidden_dims": 1024, "output_dims": 1024}
    projection |= {"depth": 4, "dim_head": 64, "heads": 12, "num_queries": 16}
    config = CAMERA | {
        "sample_size": 32,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
        "image_projection": projection,
    }
    clip = CLIPVisionConfig(  # ViT-H/14
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=16,
        patch_size=14,
        projection_dim=1024,
        hidden_act="gelu",
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        ImageDreamUNet.from_config(config).half().save_pretrained(path / "unet")
        full_size_vae(256).half().save_pretrained(path / "vae")
        CLIPVisionModelWithProjection(clip).half().save_pretrained(path / "image_encoder")
    build_scheduler().save_pretrained(path / "scheduler")
    return path


def _with_the_rest(path: Path) -> Path:
    tiny_vae().save_pretrained(path / "vae")
    CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
            projection_dim=CLIP_WIDTH,
        )
    ).save_pretrained(path / "image_encoder")
    build_scheduler().save_pretrained(path / "scheduler")
    return path
