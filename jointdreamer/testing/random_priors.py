"""Random diffusion priors in the usual folder layouts: tiny for tests, or at full size."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, T2IAdapter, UNet2DConditionModel
from safetensors.torch import save_file
from threestudio_jointdreamer.priors.mv_adapter import RowAttention
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from ..tinyworld.models import (
    CAMERA,
    TEXT_WIDTH,
    build_flow_scheduler,
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
    tiny_unet(width).save_pretrained(path / "unet")
    tiny_vae().save_pretrained(path / "vae")
    _text_encoder(path)
    build_scheduler(prediction_type).save_pretrained(path / "scheduler")
    return path


def build_mvdream(
    path: Path | str, seed: int = 0, width: int = 32, latent_size: int = 16, with_vae: bool = False
) -> Path:
    """unet/ and scheduler/ of a tiny multi-view model, and vae/ and text_encoder/ if asked for."""
    path = Path(path)
    torch.manual_seed(seed)
    tiny_unet(width, True, latent_size).save_pretrained(path / "unet")
    if with_vae:
        tiny_vae().save_pretrained(path / "vae")
        _text_encoder(path)
    build_scheduler().save_pretrained(path / "scheduler")
    return path


def build_sdxl(path: Path | str, seed: int = 0) -> Path:
    """Every part of a tiny SDXL; images are 64x64, text embeddings [24 + 1, 96], pooled 48."""
    path = Path(path)
    torch.manual_seed(seed)
    pooled, time_width = 48, 8
    build_unet(
        sample_size=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32, 32),
        attention_head_dim=2,
        norm_num_groups=8,
        cross_attention_dim=96,
        addition_embed_type="text_time",
        addition_time_embed_dim=time_width,
        projection_class_embeddings_input_dim=6 * time_width + pooled,
    ).save_pretrained(path / "unet")
    tiny_vae().save_pretrained(path / "vae")
    _text_encoder(path, 48)
    _text_encoder(path, 48, "_2", pooled)
    build_scheduler().save_pretrained(path / "scheduler")
    return path


def build_sd3(path: Path | str, seed: int = 0, t5: bool = True) -> Path:
    """Every part of a tiny Stable Diffusion 3; text embeddings [24 + 256 + 1, 96], pooled 64."""
    path = Path(path)
    torch.manual_seed(seed)
    SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=96,
        pooled_projection_dim=64,
        pos_embed_max_size=16,
    ).save_pretrained(path / "transformer")
    tiny_vae(latent_channels=16, shift_factor=0.1).save_pretrained(path / "vae")
    for suffix in ("", "_2"):
        _text_encoder(path, 32, suffix, 32)
    if t5:
        tokenizer = build_tokenizer(WORDS)
        tokenizer.model_max_length = 256
        tokenizer.save_pretrained(path / "tokenizer_3")
        sizes = {"d_model": 96, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 2}
        config = T5Config(vocab_size=len(tokenizer), **sizes)
        T5EncoderModel(config).save_pretrained(path / "text_encoder_3")
    build_flow_scheduler(shift=3.0).save_pretrained(path / "scheduler")
    return path


def build_full_size_sdxl(path: Path | str, seed: int = 0) -> Path:
    """SDXL's UNet and VAE with random fp16 weights; its text encoders have one layer each."""
    path = Path(path)
    torch.manual_seed(seed)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        UNet2DConditionModel(
            sample_size=128,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(320, 640, 1280),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ).half().save_pretrained(path / "unet")
        full_size_vae(1024).half().save_pretrained(path / "vae")
    _text_encoder(path, 768)
    _text_encoder(path, 1280, "_2", 1280)
    build_scheduler().save_pretrained(path / "scheduler")
    return path


def build_full_size_sd3(path: Path | str, seed: int = 0) -> Path:
    """Stable Diffusion 3 medium's transformer and VAE with random fp16 weights, without T5."""
    path = Path(path)
    torch.manual_seed(seed)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        SD3Transformer2DModel(
            sample_size=128,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=24,
            attention_head_dim=64,
            num_attention_heads=24,
            caption_projection_dim=1536,
            joint_attention_dim=4096,
            pooled_projection_dim=2048,
            pos_embed_max_size=192,
        ).half().save_pretrained(path / "transformer")
        vae = full_size_vae(1024, latent_channels=16, shift_factor=0.0609, scaling_factor=1.5305)
        vae.half().save_pretrained(path / "vae")
    _text_encoder(path, 768, projection=768)
    _text_encoder(path, 1280, "_2", 1280)
    build_flow_scheduler(shift=3.0).save_pretrained(path / "scheduler")
    return path


def build_full_size(
    path: Path | str, seed: int = 0, multiview: bool = False, whole: bool = False
) -> Path:
    """Stable Diffusion 2.1 base or MVDream, with random fp16 weights.

    Its text encoder is as wide as the original, but has one layer and the tiny models' tokenizer.

    Args:
        whole: MVDream too has a VAE and a text encoder.
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
        if whole or not multiview:
            vae = full_size_vae(256 if multiview else 512)
            vae.half().save_pretrained(path / "vae")
    if whole or not multiview:
        _text_encoder(path, width=1024)
    build_scheduler().save_pretrained(path / "scheduler")
    return path


def build_mv_adapter(path: Path | str, unet: Path | str, seed: int = 0) -> Path:
    """A file as MV-Adapter's are published, for the UNet in the folder `unet`; in its precision.

    Its keys are those of the UNet's attention processors and of a T2IAdapter.
    """
    path, device = Path(path), "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(seed)
    with torch.device("meta"):
        model = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(unet))
    weights = {}
    with torch.device(device):
        for name in model.attn_processors:
            if name.endswith("attn1.processor"):
                layer = RowAttention(model.get_submodule(name.removesuffix(".processor")).inner_dim)
                weights |= {f"{name}.{key}": value for key, value in layer.state_dict().items()}
        channels, more = list(model.config.block_out_channels), {}
        if model.config.addition_embed_type == "text_time":  # SDXL's has one for the middle block
            channels += channels[-1:]
            more = {"downscale_factor": 16, "adapter_type": "full_adapter_xl"}
        count = model.config.layers_per_block
        weights |= T2IAdapter(6, channels, num_res_blocks=count, **more).state_dict()
    dtype = torch.float16 if max(channels) > 1000 else torch.float32
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.to("cpu", dtype).contiguous() for name, value in weights.items()}, path)
    return path


def full_size_vae(image_size: int, **changes) -> AutoencoderKL:
    sizes = {"layers_per_block": 2, "norm_num_groups": 32, "sample_size": image_size}
    return build_vae((128, 256, 512, 512), **sizes | changes)


def tiny_vae(**changes) -> AutoencoderKL:
    return build_vae((8, 16, 16), norm_num_groups=8, scaling_factor=0.5, **changes)


def tiny_unet(
    width: int = 32, multiview: bool = False, latent_size: int = 16, **changes
) -> UNet2DConditionModel:
    return build_unet(
        multiview,
        sample_size=latent_size,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(width, 2 * width),
        attention_head_dim=2,
        norm_num_groups=8,
    )


def _text_encoder(
    path: Path, width: int = TEXT_WIDTH, suffix: str = "", projection: int | None = None
) -> None:
    """tokenizer/ and text_encoder/, which projects its pooled embedding to a width if asked to."""
    tokenizer = build_tokenizer(WORDS)
    tokenizer.save_pretrained(path / f"tokenizer{suffix}")
    sizes = text_config(tokenizer, width) | {"intermediate_size": 2 * width, "num_hidden_layers": 1}
    kind = CLIPTextModel
    if projection is not None:
        kind, sizes = CLIPTextModelWithProjection, sizes | {"projection_dim": projection}
    kind(CLIPTextConfig(**sizes)).save_pretrained(path / f"text_encoder{suffix}")


BUILDERS = {  # of a 2D prior, by size and family
    "tiny": {"sd": build_stable_diffusion, "sdxl": build_sdxl, "sd3": build_sd3},
    "full": {"sd": build_full_size, "sdxl": build_full_size_sdxl, "sd3": build_full_size_sd3},
}
