"""CLIP's image encoder, as checkpoints of Zero-1-to-3 and ImageDream hold it, for transformers."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from ...state_dicts import children, empty_model, fit
from .renaming import apart, renamed

PREFIX = "cond_stage_model.model.visual."
# CLIP's text half and the constants of its preprocessing, after "cond_stage_model."
TEXT_HALF = (
    *("mean", "std", "model.positional_embedding", "model.text_projection", "model.logit_scale"),
    *("model.token_embedding.", "model.ln_final.", "model.transformer."),
)
HEAD_DIM = 64  # of every image encoder by OpenAI
BLOCK = "transformer.resblocks."
QKV = tuple(f".attn.{part}_proj." for part in "qkv")
NAMES = {  # patterns of CLIP's names, and what those of transformers have instead
    r"^transformer\.resblocks\.": "vision_model.encoder.layers.",
    r"\.attn\.": ".self_attn.",
    r"\.ln_(1|2)\.": r".layer_norm\1.",
    r"\.mlp\.c_fc\.": ".mlp.fc1.",
    r"\.mlp\.c_proj\.": ".mlp.fc2.",
    r"^class_embedding$": "vision_model.embeddings.class_embedding",
    r"^positional_embedding$": "vision_model.embeddings.position_embedding.weight",
    r"^conv1\.": "vision_model.embeddings.patch_embedding.",
    r"^ln_pre\.": "vision_model.pre_layrnorm.",
    r"^ln_post\.": "vision_model.post_layernorm.",
    r"^proj$": "visual_projection.weight",
}


def clip_config(
    weights: Mapping[str, Tensor], head_dim: int | None = None, hidden_act: str = "quick_gelu"
) -> dict[str, Any]:
    """The config of a `CLIPVisionModelWithProjection`, read off the shapes of the weights.

    Args:
        weights: by their names in CLIP's `visual`, without a prefix.
        head_dim: width of an attention head, 64 in OpenAI's models; no weight tells it.
        hidden_act: OpenAI's activation is `quick_gelu`, OpenCLIP's `gelu`.

    Raises:
        KeyError: a weight that the architecture needs is missing.
        ValueError: the width does not divide into heads.
    """
    width, channels, patch, _ = weights["conv1.weight"].shape
    head_dim = head_dim or HEAD_DIM
    if width % head_dim:
        raise ValueError(f"its width {width} does not divide into heads of {head_dim}")
    side = round((weights["positional_embedding"].shape[0] - 1) ** 0.5)  # 1: the class token
    return {
        "architectures": [CLIPVisionModelWithProjection.__name__],
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "num_channels": channels,
        "patch_size": patch,
        "image_size": side * patch,
        "intermediate_size": weights[f"{BLOCK}0.mlp.c_fc.weight"].shape[0],
        "num_hidden_layers": len(children(weights, BLOCK)),
        "num_attention_heads": width // head_dim,
        "projection_dim": weights["proj"].shape[1],
        "hidden_act": hidden_act,
        "layer_norm_eps": 1e-5,
    }


def convert_clip(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights under transformers' names, each of them used and each of the model's filled.

    Raises:
        ValueError: missing, surplus or misshapen weights, by their names in CLIP.
    """
    weights = apart(weights, ".attn.in_proj_", QKV)
    if "proj" in weights:  # which CLIP multiplies from the right
        weights["proj"] = weights["proj"].T.contiguous()
    names = {renamed(name, NAMES): name for name in weights}
    return fit(weights, names, empty_model(CLIPVisionModelWithProjection, config))
