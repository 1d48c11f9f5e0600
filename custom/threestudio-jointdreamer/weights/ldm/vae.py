"""An autoencoder in LDM's layout as a stock diffusers AutoencoderKL."""

from collections.abc import Mapping
from typing import Any

from diffusers import AutoencoderKL
from torch import Tensor

from ...state_dicts import children, empty_model, fit, renaming
from .converters import diffusers_converter

SCALING_FACTOR = 0.18215  # of every published SD 1, SD 2, MVDream and Zero-1-to-3


def vae_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The diffusers config of an LDM autoencoder, read off the shapes of its weights.

    Args:
        weights: by their names in LDM's `AutoencoderKL`, without a prefix.

    Raises:
        KeyError: a weight that the architecture needs is missing.
    """
    levels = range(len(children(weights, "encoder.down.")))
    layers = len(children(weights, "encoder.down.0.block."))
    widths = [
        weights[f"encoder.down.{level}.block.{layers - 1}.conv2.weight"].shape[0]
        for level in levels
    ]
    return {
        "_class_name": AutoencoderKL.__name__,
        "in_channels": weights["encoder.conv_in.weight"].shape[1],
        "out_channels": weights["decoder.conv_out.weight"].shape[0],
        "block_out_channels": widths,
        "layers_per_block": layers,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "latent_channels": weights["decoder.conv_in.weight"].shape[1],
        "norm_num_groups": 32,
        "act_fn": "silu",
        "scaling_factor": SCALING_FACTOR,
    }


def convert_vae(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights under diffusers' names; all else as `convert_unet`."""
    names = renaming(diffusers_converter("vae"), weights, config, prefix="first_stage_model.")
    return fit(weights, names, empty_model(AutoencoderKL, config))
