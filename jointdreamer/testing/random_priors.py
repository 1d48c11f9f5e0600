"""Random diffusion priors in the usual folder layouts: tiny for tests, or at full size."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

WORDS = """a an and the of with on in wearing red green blue yellow purple orange white black hat
backpack bear cat dog rabbit frog pig front side back overhead view photo cube""".split()
TOKENS = 24
TEXT_WIDTH = 128
CAMERA = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 16}


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
    _vae().save_pretrained(path / "vae")
    _text_encoder(path)
    _scheduler(prediction_type).save_pretrained(path / "scheduler")
    return path


def build_mvdream(
    path: Path | str, seed: int = 0, width: int = 32, latent_size: int = 16, with_vae: bool = False
) -> Path:
    """unet/ and scheduler/ of a tiny multi-view model, and vae/ where asked for."""
    path = Path(path)
    torch.manual_seed(seed)
    _unet(width, sample_size=latent_size, **CAMERA).save_pretrained(path / "unet")
    if with_vae:
        _vae().save_pretrained(path / "vae")
    _scheduler("epsilon").save_pretrained(path / "scheduler")
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
            channels = (128, 256, 512, 512)
            vae = AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=channels,
                layers_per_block=2,
                sample_size=512,
            )
            vae.half().save_pretrained(path / "vae")
    if not multiview:
        _text_encoder(path, width=1024)
    _scheduler("epsilon").save_pretrained(path / "scheduler")
    return path


def _unet(width: int, sample_size: int = 16, **camera) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=sample_size,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(width, 2 * width),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=8,
        use_linear_projection=True,
        **camera,
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=0.5,
    )


def _scheduler(prediction_type: str) -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )


def _text_encoder(path: Path, width: int = TEXT_WIDTH) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

    unk, bos, eos = "<unk>", "<start>", "<end>"
    vocabulary = {word: i for i, word in enumerate([unk, *WORDS, bos, eos])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=unk))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        special_tokens=[(token, vocabulary[token]) for token in (bos, eos)],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token=bos,
        eos_token=eos,
        pad_token=eos,
        unk_token=unk,
        model_max_length=TOKENS,
    )
    tokenizer.save_pretrained(path / "tokenizer")
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    CLIPTextModel(config).save_pretrained(path / "text_encoder")
