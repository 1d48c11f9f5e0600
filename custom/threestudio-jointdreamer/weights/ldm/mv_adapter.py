"""MV-Adapter's file: attention layers beside those of a UNet, and an encoder of cameras."""

import re
from collections.abc import Iterable, Mapping
from math import isqrt
from typing import Any

from torch import Tensor

from ...state_dicts import children

LAYER = re.compile(r"(?P<layer>.+\.attn1)\.processor\.(?P<rest>to_(?:q|k|v|out)_mv\..+)")
ENCODER = "adapter."  # the beginning of a T2IAdapter's names
OF_IMAGES = re.compile(r".+_ref\..+")  # attention to a picture, in the models from image to views
RAY_NUMBERS = 6  # of a camera's rays


def is_mv_adapter(names: Iterable[str]) -> bool:
    """Whether these are the keys of a file of huanngzh/mv-adapter."""
    names = set(names)
    return f"{ENCODER}conv_in.weight" in names and any(LAYER.fullmatch(name) for name in names)


def layer_name(processor: str) -> str:
    """How our `MVAdapter` calls a UNet's layer, of which `processor` is a name in it."""
    return processor.removesuffix(".processor").replace(".", "_")


def to_stock(weights: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and weights of our `MVAdapter`; sizes are inferred from the shapes.

    Raises:
        KeyError, ValueError: weights are missing, or of the models that look at a picture.
    """
    if any(OF_IMAGES.fullmatch(name) for name in weights):
        raise ValueError(
            "it makes views of a picture (to_k_ref): use the one that makes them of a text, "
            "mvadapter_t2mv_sd21.safetensors or mvadapter_t2mv_sdxl.safetensors"
        )
    stock, layers = {}, {}
    for name, tensor in weights.items():
        if match := LAYER.fullmatch(name):
            layer = layer_name(match["layer"])
            stock[f"attention.{layer}.{match['rest']}"] = tensor
            layers.setdefault(layer, tensor.shape[0])
        else:  # what does not belong there, loading will refuse
            stock[f"encoder.{name}"] = tensor
    body = f"{ENCODER}body."
    blocks = sorted(children(weights, body), key=int)
    config = {
        "layers": layers,
        "channels": [weights[f"{body}{i}.resnets.0.block1.weight"].shape[0] for i in blocks],
        "num_res_blocks": len(children(weights, f"{body}0.resnets.")),
        "downscale_factor": isqrt(weights[f"{ENCODER}conv_in.weight"].shape[1] // RAY_NUMBERS),
    }
    return config, stock
