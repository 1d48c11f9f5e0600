"""The tiny priors' architectures: classes of diffusers and transformers at small width."""

from collections.abc import Sequence

from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from threestudio_jointdreamer.priors import wonder3d_unet
from threestudio_jointdreamer.priors.imagedream_unet import ImageDreamUNet
from threestudio_jointdreamer.priors.multiview import CAMERA_DIM, use_cross_view_attention
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
)

from .captions import VOCABULARY

IMAGE_SIZE = 64
LATENT_SIZE, LATENT_CHANNELS = 16, 4
TEXT_WIDTH = 128
MAX_TOKENS = 24
N_VIEW = 4
CAMERA = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": CAMERA_DIM}

MODULATED = ("norm1", "norm1_context", "norm_out")  # by the timestep and the prompt, in an MMDiT
_BOS, _EOS, _UNK = "<|startoftext|>", "<|endoftext|>", "<|unk|>"


def build_tokenizer(words: Sequence[str] = VOCABULARY) -> PreTrainedTokenizerFast:
    """A lower-casing word-level tokenizer, padded with end-of-text."""
    vocabulary = {word: i for i, word in enumerate((_UNK, *words, _BOS, _EOS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_UNK))
    tokenizer.normalizer = normalizers.Lowercase()
    # Words only: punctuation is dropped rather than reported as unknown.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation(behavior="removed")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BOS} $A {_EOS}",
        special_tokens=[(_BOS, vocabulary[_BOS]), (_EOS, vocabulary[_EOS])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=_BOS,
        eos_token=_EOS,
        pad_token=_EOS,
        unk_token=_UNK,
        model_max_length=MAX_TOKENS,
    )


def text_config(tokenizer: PreTrainedTokenizerFast, width: int = TEXT_WIDTH) -> dict[str, int]:
    """What a CLIP text tower takes over from its tokenizer, and its width."""
    return {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "hidden_size": width,
        "num_attention_heads": 4,
    }


def build_clip(tokenizer: PreTrainedTokenizerFast) -> CLIPModel:
    """A small CLIP; its text tower conditions the diffusion priors."""
    tower = {"intermediate_size": 4 * TEXT_WIDTH, "num_attention_heads": 4}
    text = text_config(tokenizer) | tower | {"num_hidden_layers": 3}
    vision = {"hidden_size": TEXT_WIDTH, "num_hidden_layers": 4, "patch_size": 8}
    vision |= tower | {"image_size": IMAGE_SIZE}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=TEXT_WIDTH))


def text_encoder_of(clip: CLIPModel) -> CLIPTextModelWithProjection:
    """CLIP's text tower with the projection of its pooled embedding."""
    config = clip.config.text_config.to_dict() | {"projection_dim": clip.config.projection_dim}
    encoder = CLIPTextModelWithProjection(CLIPTextConfig.from_dict(config))
    encoder.text_model.load_state_dict(clip.text_model.state_dict())
    encoder.text_projection.load_state_dict(clip.text_projection.state_dict())
    return encoder


def build_vae(channels: tuple[int, ...] = (32, 64, 96), **changes) -> AutoencoderKL:
    """An autoencoder, by default of factor 4: 64x64 images to 4x16x16 latents."""
    config = {"layers_per_block": 1, "norm_num_groups": 16, "sample_size": IMAGE_SIZE}
    config |= {"latent_channels": LATENT_CHANNELS} | changes
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        **config,
    )


def build_scheduler(prediction_type: str = "epsilon") -> DDIMScheduler:
    """Stable Diffusion's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )


def build_flow_scheduler(shift: float = 1.0) -> FlowMatchEulerDiscreteScheduler:
    """A straight path from pictures to noise; Stable Diffusion 3's shift is 3."""
    return FlowMatchEulerDiscreteScheduler(shift=shift)


def build_mmdit() -> SD3Transformer2DModel:
    """The flow prior's transformer: Stable Diffusion 3's at small width, on patches of 2x2.

    Its blocks begin as the identity, and its output as 0 (DiT, Peebles and Xie 2022, arXiv
    2212.09748), which diffusers leaves to who trains it.
    """
    model = SD3Transformer2DModel(
        sample_size=LATENT_SIZE,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=6,
        attention_head_dim=32,
        num_attention_heads=4,
        caption_projection_dim=128,
        qk_norm="rms_norm",
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        pos_embed_max_size=LATENT_SIZE // 2,
    )
    modulations = (
        layer.linear for name, layer in model.named_modules() if name.split(".")[-1] in MODULATED
    )
    for linear in (*modulations, model.proj_out):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    return model


def build_unet(multiview: bool = False, **changes) -> UNet2DConditionModel:
    """The 2D prior's UNet, or MVDream's: plus camera embedding and cross-view attention."""
    config = {
        "sample_size": LATENT_SIZE,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (64, 96, 128),
        "layers_per_block": 1,
        "attention_head_dim": (2, 3, 4),
        "cross_attention_dim": TEXT_WIDTH,
        "norm_num_groups": 16,
        "use_linear_projection": True,
    }
    unet = UNet2DConditionModel(**config | (CAMERA if multiview else {}) | changes)
    return use_cross_view_attention(unet, N_VIEW) if multiview else unet


TWO_LEVELS = {  # of the image-to-views priors' UNets; attention across views at both
    "sample_size": LATENT_SIZE,
    "out_channels": LATENT_CHANNELS,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [64, 72],
    "layers_per_block": 1,
    "attention_head_dim": [2, 3],
    "cross_attention_dim": TEXT_WIDTH,
    "norm_num_groups": 8,
    "use_linear_projection": True,
}


def build_wonder3d_unet() -> wonder3d_unet.Wonder3DUNet:
    """The image-to-views prior's UNet."""
    config = TWO_LEVELS | {
        "in_channels": 2 * LATENT_CHANNELS,
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": wonder3d_unet.CAMERA_DIM,
        "num_views": N_VIEW,
        "cd_attention_mid": False,
    }
    return use_cross_view_attention(wonder3d_unet.Wonder3DUNet.from_config(config), N_VIEW)


def build_imagedream_unet() -> ImageDreamUNet:
    """The image-prompted multi-view prior's UNet, with eight image tokens."""
    projection = {
        "embed_dims": TEXT_WIDTH,
        "output_dims": TEXT_WIDTH,
        "hidden_dims": TEXT_WIDTH,
        "depth": 2,
        "dim_head": 32,
        "heads": 4,
        "num_queries": 8,
    }
    config = TWO_LEVELS | CAMERA | {"image_projection": projection}
    return ImageDreamUNet.from_config(config | {"in_channels": LATENT_CHANNELS})
