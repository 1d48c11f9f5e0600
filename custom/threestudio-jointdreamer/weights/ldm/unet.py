"""A UNet in LDM's layout (CompVis, Stability, MVDream, ImageDream, Zero-1-to-3) as diffusers'."""

from collections.abc import Mapping
from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor

from ...state_dicts import children, empty_model, fit, renaming
from . import image_prompt
from .converters import diffusers_converter

SD1_HEADS = 8  # Stable Diffusion 1: as many heads at every width
SD2_HEAD_DIM = 64  # Stable Diffusion 2: heads of one width
# MVDream's camera embedding (Linear, SiLU, Linear) is added to the time embedding, as the class
# embedding of a stock model is
CAMERA = {
    f"camera_embed.{ours}.{kind}": f"class_embedding.linear_{theirs}.{kind}"
    for ours, theirs in ((0, 1), (2, 2))
    for kind in ("weight", "bias")
}


def has_camera(weights: Mapping[str, Tensor]) -> bool:
    """Whether the UNet takes a camera vector, as MVDream's does."""
    return "camera_embed.0.weight" in weights


def projects_linearly(weights: Mapping[str, Tensor]) -> bool:
    """Stable Diffusion 2 projects into its transformers by matrices, version 1 by 1x1 kernels."""
    projections = (tensor for name, tensor in weights.items() if name.endswith("proj_in.weight"))
    return any(tensor.ndim == 2 for tensor in projections)


def unet_config(
    weights: Mapping[str, Tensor],
    sample_size: int,
    num_heads: int | None = None,
    head_dim: int | None = None,
) -> dict[str, Any]:
    """The diffusers config of an LDM UNet, read off the shapes of its weights.

    Args:
        weights: by their names in LDM's `UNetModel`, without a prefix.
        sample_size: side of the latents it was trained on; no weight tells it.
        num_heads, head_dim: heads of every attention layer, or their width. Weights do not tell
            them either: without both, 8 heads where the projections are 1x1 kernels (Stable
            Diffusion 1), heads of 64 where they are matrices (Stable Diffusion 2).

    Raises:
        KeyError: a weight that the architecture needs is missing.
        ValueError: the widths do not divide into heads, or the blocks are not regular.
    """
    channels = weights["input_blocks.0.0.weight"].shape[0]
    levels = _levels(weights)
    widths = [
        weights[f"input_blocks.{level[-1]}.0.out_layers.3.weight"].shape[0] for level in levels
    ]
    attends = [f"input_blocks.{level[0]}.1.proj_in.weight" in weights for level in levels]
    linear = projects_linearly(weights)
    if num_heads is None and head_dim is None:
        num_heads, head_dim = (None, SD2_HEAD_DIM) if linear else (SD1_HEADS, None)
    indivisible = [width for width in widths if width % (num_heads or head_dim)]
    if indivisible:
        heads = f"{num_heads} heads" if num_heads else f"heads of {head_dim}"
        raise ValueError(f"its width {indivisible[0]} does not divide into {heads}")
    if widths[0] != channels:
        raise ValueError(f"its first block has {widths[0]} channels and its first layer {channels}")
    text = weights["middle_block.1.transformer_blocks.0.attn2.to_k.weight"]
    config = {
        "_class_name": UNet2DConditionModel.__name__,
        "sample_size": sample_size,
        "in_channels": weights["input_blocks.0.0.weight"].shape[1],
        "out_channels": weights["out.2.weight"].shape[0],
        "block_out_channels": widths,
        "layers_per_block": len(levels[0]),
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in attends[::-1]],
        "cross_attention_dim": text.shape[1],
        # diffusers means their number
        "attention_head_dim": num_heads or [width // head_dim for width in widths],
        "use_linear_projection": linear,
        "act_fn": "silu",
        "norm_eps": 1e-5,
        "norm_num_groups": 32,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
    }
    if image_prompt.takes_image(weights):
        config["image_projection"] = image_prompt.projection_config(weights)
    if has_camera(weights):
        config["class_embed_type"] = "projection"
        config["projection_class_embeddings_input_dim"] = weights["camera_embed.0.weight"].shape[1]
    return config


def convert_unet(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights under diffusers' names, each of them used and each of the model's filled.

    Raises:
        KeyError, ValueError: missing, surplus or misshapen weights, by their LDM names.
    """
    without_camera = {**config, "class_embed_type": None}  # which diffusers wants under other names
    names = renaming(
        diffusers_converter("unet"), weights, without_camera, prefix="model.diffusion_model."
    )
    names |= {new: name for name, new in CAMERA.items() if name in weights}
    stock = {name: value for name, value in config.items() if name != "image_projection"}
    mvdream = image_prompt.without_image(weights)
    fitted = fit(mvdream, names, empty_model(UNet2DConditionModel, stock))
    if image_prompt.takes_image(weights):
        fitted |= image_prompt.convert_image_prompt(
            weights, names, fitted, config["image_projection"]
        )
    return fitted


def _levels(weights: Mapping[str, Tensor]) -> list[list[int]]:
    """The numbers of the input blocks with layers, by resolution: [[1, 2], [4, 5], ...]."""
    levels: list[list[int]] = [[]]
    for index in range(1, len(children(weights, "input_blocks."))):
        if f"input_blocks.{index}.0.op.weight" in weights:
            levels.append([])
        else:
            levels[-1].append(index)
    if len({len(level) for level in levels}) > 1 or not levels[0]:
        raise ValueError("its resolutions have different numbers of layers")
    return levels
