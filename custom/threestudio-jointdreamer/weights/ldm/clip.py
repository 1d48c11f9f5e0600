"""OpenAI's CLIP image encoder, as Zero-1-to-3's checkpoints hold it, in transformers' layout."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from ...state_dicts import children, empty_model, fit

PREFIX = "cond_stage_model.model.visual."
# CLIP's text half and the constants of its preprocessing, after "cond_stage_model."
TEXT_HALF = (
    "mean",
    "std",
    "model.positional_embedding",
    "model.text_projection",
    "model.logit_scale",
    "model.token_embedding.",
    "model.ln_final.",
    "model.transformer.",
)
HEAD_DIM = 64  # of every CLIP image encoder
BLOCK, LAYER = "transformer.resblocks.", "vision_model.encoder.layers."
QKV = ("q_proj", "k_proj", "v_proj")
OUTSIDE = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "ln_post.weight": "vision_model.post_layernorm.weight",
    "ln_post.bias": "vision_model.post_layernorm.bias",
    "proj": "visual_projection.weight",
}
INSIDE = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def clip_config(weights: Mapping[str, Tensor], head_dim: int | None = None) -> dict[str, Any]:
    """The config of a `CLIPVisionModelWithProjection`, read off the shapes of the weights.

    Args:
        weights: by their names in CLIP's `visual`, without a prefix.
        head_dim: width of an attention head, 64 in the published models; no weight tells it.

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
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }


def convert_clip(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights under transformers' names, each of them used and each of the model's filled.

    Raises:
        ValueError: missing, surplus or misshapen weights, by their names in CLIP.
    """
    parts = dict(part for name in weights for part in _split(name, weights[name]))
    names = {_new_name(name): name for name in parts}
    return fit(parts, names, empty_model(CLIPVisionModelWithProjection, config))


def _split(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """CLIP stacks what transformers keeps apart, and multiplies its projection from the right."""
    for kind in ("weight", "bias"):
        stacked = f".attn.in_proj_{kind}"
        if name.endswith(stacked) and tensor.shape[0] % len(QKV) == 0:
            root = name.removesuffix(stacked)
            rows = tensor.chunk(len(QKV))
            return [(f"{root}.{part}.{kind}", row) for part, row in zip(QKV, rows, strict=True)]
    return [(name, tensor.T.contiguous() if name == "proj" else tensor)]


def _new_name(name: str) -> str:
    if not name.startswith(BLOCK):
        return OUTSIDE.get(name, name)
    number, _, inner = name.removeprefix(BLOCK).partition(".")
    module, _, kind = inner.rpartition(".")
    new = f"self_attn.{module}" if module in QKV else INSIDE.get(module, module)
    return f"{LAYER}{number}.{new}.{kind}"
