"""DINO's vision transformer (Caron et al. 2021, arXiv 2104.14294) as transformers' ViTModel.

Numbers are those of facebookresearch/dino. transformers' layers compute the same but for two
details, which `match_dino` sets right.
"""

import math
from collections.abc import Iterable, Mapping
from types import MethodType

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import ViTModel

from ..weights.assembling import assemble
from ..weights.files import read_weights
from ..weights.folders import place
from ..weights.state_dicts import check_names
from .loading import HALF, load_model, locate

IMAGE_MEAN = (0.485, 0.456, 0.406)  # ImageNet's, which DINO's inputs are normalised with
IMAGE_STD = (0.229, 0.224, 0.225)
LAYER_NORM_EPS = 1e-6
HEAD_DIM = 64  # channels of an attention head in every ViT of DINO
WRAPPERS = ("module.", "backbone.")  # prefixes that DINO's training puts before the backbone's keys
UNUSED = "head."  # keys of the projection head, which is used in DINO's own training only

_PARTS = {  # of a block: the reference's name and the published one
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def load_dino(
    name_or_path: str,
    device: torch.device,
    dtype: torch.dtype,
    key: str = "pretrained_model_name_or_path",
    subfolder: str = "",
) -> ViTModel:
    """A frozen DINO backbone without a pooler, in eval mode; give images to `cls_features`.

    Args:
        name_or_path: a folder in transformers layout, a hub name such as facebook/dino-vits16, or
            a checkpoint file of facebookresearch/dino (dino_deitsmall16_pretrain.pth) here or on
            the hub.
        key: the config key to name in errors.
        subfolder: where in the folder or the hub's repository the model lies.

    Raises:
        FileNotFoundError: there is no such file or folder, and the hub cannot be reached.
        ValueError: unreadable weights, or weights that are no DINO vision transformer.
    """
    source = locate(name_or_path, subfolder, key, half=dtype in HALF)
    if source.is_file():
        try:
            config, weights = to_transformers(read_weights(source))
        except ValueError as error:
            raise ValueError(f"{key}={str(name_or_path)!r}: {error}") from error
        vit = assemble(ViTModel, config, place(weights, device, dtype), add_pooling_layer=False)
        vit = vit.eval().requires_grad_(False)
    else:
        vit = load_model(
            ViTModel, name_or_path, subfolder, device, dtype, key, add_pooling_layer=False
        )
    return match_dino(vit)


def is_original(names: Iterable[str]) -> bool:
    """Whether these are the keys of a vision transformer as facebookresearch/dino saves it."""
    plain = {_unwrapped(name) for name in names}
    return {
        "cls_token",
        "pos_embed",
        "patch_embed.proj.weight",
        "blocks.0.attn.qkv.weight",
    } <= plain


def to_transformers(
    state_dict: Mapping[str, Tensor], head_dim: int = HEAD_DIM
) -> tuple[dict, dict[str, Tensor]]:
    """A facebookresearch/dino backbone as ViTConfig's arguments and weights by published names.

    The names are those of facebook/dino-vits16 (`encoder.layer.0.attention.attention.query...`),
    which every release of transformers reads. Sizes are inferred from the shapes.

    Args:
        head_dim: channels of an attention head; shapes do not tell it.

    Raises:
        ValueError: keys are missing, unknown or misshapen; they are named.
    """
    weights = {_unwrapped(name): tensor for name, tensor in state_dict.items()}
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(UNUSED)}
    if not is_original(weights):
        raise ValueError(
            "These are not the weights of a DINO vision transformer: cls_token, pos_embed, "
            "patch_embed.proj or blocks.0 are missing. Give a ViT backbone such as "
            "dino_deitsmall16_pretrain.pth (ResNet-50 and XCiT are not served)."
        )
    config = _config(weights, head_dim)
    _check(weights, config)
    published = {
        "embeddings.cls_token": weights["cls_token"],
        "embeddings.position_embeddings": weights["pos_embed"],
    }
    layers = {"patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm"}
    for i in range(config["num_hidden_layers"]):
        block, layer = f"blocks.{i}", f"encoder.layer.{i}"
        layers |= {f"{block}.{part}": f"{layer}.{name}" for part, name in _PARTS.items()}
        for kind in ("weight", "bias") if config["qkv_bias"] else ("weight",):
            qkv = weights[f"{block}.attn.qkv.{kind}"].chunk(3)
            for name, tensor in zip(("query", "key", "value"), qkv, strict=True):
                published[f"{layer}.attention.attention.{name}.{kind}"] = tensor.clone()
    for ours, theirs in layers.items():
        for kind in ("weight", "bias"):
            published[f"{theirs}.{kind}"] = weights[f"{ours}.{kind}"]
    return config, published


def match_dino(vit: ViTModel) -> ViTModel:
    """Makes a stock ViTModel compute as facebookresearch/dino's, in place.

    Layer norms: DINO's epsilon is 1e-6, but the config of the published folders says 1e-12, which
    changes features by some 1e-5.

    Position embeddings of other image sizes: both interpolate them bicubically, but DINO adds 0.1
    to the number of patches and samples at the scale that results, so that its grid is shifted by
    up to 0.1 patches at the far end; this changes features by some 1e-3.
    """
    vit.embeddings.interpolate_pos_encoding = MethodType(_dino_positions, vit.embeddings)
    vit.config.layer_norm_eps = LAYER_NORM_EPS
    for module in vit.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = LAYER_NORM_EPS
    return vit


def cls_features(vit: ViTModel, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
    """DINO's image features: the class token after the last norm, in the model's precision.

    Args:
        images: normalised with `IMAGE_MEAN` and `IMAGE_STD`, of any size from one patch up; what
            is left over of a whole number of patches, right and at the bottom, is not seen.
    """
    pixels = images.to(vit.dtype)
    return vit(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0]


def _dino_positions(
    embeddings, tokens: Float[Tensor, "B L D"], height: int, width: int
) -> Float[Tensor, "1 L D"]:
    """Position embeddings for an image of height x width pixels.

    Args:
        embeddings: the ViTEmbeddings whose method this is.
        tokens: the class token and the patches' tokens.
    """
    positions = embeddings.position_embeddings
    if tokens.shape[1] == positions.shape[1] and height == width:
        return positions
    side = math.isqrt(positions.shape[1] - 1)
    patch = embeddings.patch_size
    wanted = (height // patch, width // patch)
    grid = positions[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    grid = F.interpolate(
        grid.to(torch.promote_types(grid.dtype, torch.float32)),
        scale_factor=tuple((n + 0.1) / side for n in wanted),
        mode="bicubic",
    )
    assert tuple(grid.shape[-2:]) == wanted
    return torch.cat([positions[:, :1], grid.flatten(2).mT.to(positions.dtype)], dim=1)


def _unwrapped(name: str) -> str:
    for prefix in WRAPPERS:
        name = name.removeprefix(prefix)
    return name


def _config(weights: Mapping[str, Tensor], head_dim: int) -> dict:
    width, channels, patch, _ = weights["patch_embed.proj.weight"].shape
    positions = weights["pos_embed"].shape[1] - 1
    side = math.isqrt(positions)
    if side**2 != positions:
        raise ValueError(
            f"pos_embed holds {positions} patches, which are no square: only backbones trained on "
            "square images are served."
        )
    if width % head_dim:
        raise ValueError(
            f"The features are {width} wide, which does not divide into heads of {head_dim}: give "
            "the head_dim this backbone was trained with."
        )
    hidden = weights.get("blocks.0.mlp.fc1.weight", torch.empty(4 * width, 0)).shape[0]
    blocks = {int(name.split(".")[1]) for name in weights if name.startswith("blocks.")}
    return {
        "hidden_size": width,
        "num_hidden_layers": max(blocks) + 1,
        "num_attention_heads": width // head_dim,
        "intermediate_size": hidden,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": LAYER_NORM_EPS,
        "image_size": side * patch,
        "patch_size": patch,
        "num_channels": channels,
        "qkv_bias": "blocks.0.attn.qkv.bias" in weights,
    }


def _check(weights: Mapping[str, Tensor], config: dict) -> None:
    """Every key there, none besides, and each of the shape that the config implies."""
    D, H, P = config["hidden_size"], config["intermediate_size"], config["patch_size"]
    shapes = {
        "cls_token": (1, 1, D),
        "pos_embed": (1, (config["image_size"] // P) ** 2 + 1, D),
        "patch_embed.proj.weight": (D, config["num_channels"], P, P),
        "patch_embed.proj.bias": (D,),
        "norm.weight": (D,),
        "norm.bias": (D,),
    }
    for i in range(config["num_hidden_layers"]):
        linear = {"attn.qkv": (3 * D, D), "attn.proj": (D, D), "mlp.fc1": (H, D), "mlp.fc2": (D, H)}
        for part, (n_out, n_in) in linear.items():
            shapes[f"blocks.{i}.{part}.weight"] = (n_out, n_in)
            if part != "attn.qkv" or config["qkv_bias"]:
                shapes[f"blocks.{i}.{part}.bias"] = (n_out,)
        for norm in ("norm1", "norm2"):
            shapes |= {f"blocks.{i}.{norm}.{kind}": (D,) for kind in ("weight", "bias")}
    try:
        check_names(
            missing=shapes.keys() - weights.keys(),
            surplus=weights.keys() - shapes.keys(),
            misshapen=[
                f"{name} {tuple(weights[name].shape)} instead of {shape}"
                for name, shape in shapes.items()
                if name in weights and tuple(weights[name].shape) != shape
            ],
        )
    except ValueError as error:
        raise ValueError(
            f"The weights are no complete DINO vision transformer: {error}. "
            "Download the file again."
        ) from error
