"""ImageDream's additions to MVDream's UNet, by the names that diffusers has for an IP-Adapter."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from torch import Tensor

from ...state_dicts import check_state_dict, children, fit
from .renaming import apart, renamed

RESAMPLER = "image_embed."  # makes image tokens of CLIP's features
LAYERS = f"{RESAMPLER}layers."
ATTENTIONS = ("attn2.to_k_ip.weight", "attn2.to_v_ip.weight")  # of each cross-attention
HEAD_DIM = 64  # of the resampler; no weight tells it
NAMES = {  # patterns of the resampler's names, and what diffusers' projection has instead
    r"^image_embed\.": "",
    r"^(layers\.\d+)\.0\.norm1\.": r"\1.ln0.",
    r"^(layers\.\d+)\.0\.norm2\.": r"\1.ln1.",
    r"^(layers\.\d+)\.0\.to_out\.": r"\1.attn.to_out.0.",
    r"^(layers\.\d+)\.0\.to_": r"\1.attn.to_",
    r"^(layers\.\d+)\.1\.0\.": r"\1.ff.0.",
    r"^(layers\.\d+)\.1\.1\.": r"\1.ff.1.net.0.proj.",
    r"^(layers\.\d+)\.1\.3\.": r"\1.ff.1.net.2.",
}


def takes_image(weights: Mapping[str, Tensor]) -> bool:
    """Whether the UNet is given a picture, as ImageDream's is."""
    return f"{RESAMPLER}proj_in.weight" in weights


def without_image(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MVDream's part of the weights."""
    return {
        name: tensor
        for name, tensor in weights.items()
        if not name.startswith(RESAMPLER) and not name.endswith(ATTENTIONS)
    }


def projection_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of an `IPAdapterPlusImageProjection`, read off the shapes of the weights.

    Raises:
        KeyError: a weight that it needs is missing.
    """
    width, features = weights[f"{RESAMPLER}proj_in.weight"].shape
    return {
        "embed_dims": features,
        "output_dims": weights[f"{RESAMPLER}proj_out.weight"].shape[0],
        "hidden_dims": width,
        "depth": len(children(weights, LAYERS)),
        "dim_head": HEAD_DIM,
        "heads": weights[f"{LAYERS}0.0.to_q.weight"].shape[0] // HEAD_DIM,
        "num_queries": weights[f"{RESAMPLER}latents"].shape[1],
        "ffn_ratio": weights[f"{LAYERS}0.1.1.weight"].shape[0] / width,
    }


def convert_image_prompt(
    weights: Mapping[str, Tensor],
    names: Mapping[str, str],
    mvdream: Mapping[str, Tensor],
    projection: Mapping[str, Any],
) -> dict[str, Tensor]:
    """The additions under the names of an `ImageDreamUNet`, all of them.

    Args:
        names: for each name that diffusers' converter gives the one in `weights`.
        mvdream: the other weights, by diffusers' names.
        projection: what `projection_config` says.

    Raises:
        ValueError: missing, surplus or misshapen weights.
    """
    resampler = {n: tensor for n, tensor in weights.items() if n.startswith(RESAMPLER)}
    resampler = apart(resampler, ".to_kv.", (".to_k.", ".to_v."))
    with torch.device("meta"):
        model = IPAdapterPlusImageProjection(**projection)
    fitted = fit(resampler, {renamed(name, NAMES): name for name in resampler}, model)
    fitted = {f"encoder_hid_proj.{name}": tensor for name, tensor in fitted.items()}
    attentions = {
        _of_processor(new): weights[old] for new, old in names.items() if old.endswith(ATTENTIONS)
    }
    expected = {
        _of_processor(name.replace(".weight", "_ip.weight")): tensor.shape
        for name, tensor in mvdream.items()
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))
    }
    check_state_dict(attentions, expected)
    return fitted | attentions


def _of_processor(name: str) -> str:
    return name.replace("attn2.", "attn2.processor.").replace("_ip.weight", "_ip.0.weight")
