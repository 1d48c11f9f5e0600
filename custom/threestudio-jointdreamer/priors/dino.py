"""DINO's vision transformer (Caron et al. 2021, arXiv 2104.14294) as transformers' ViTModel.

Numbers are those of facebookresearch/dino. transformers' layers compute the same but for two
details, which `match_dino` sets right.
"""

import math
from types import MethodType

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import ViTModel

from ..weights.ldm.dino import LAYER_NORM_EPS
from .loading import KEY, load_model

IMAGE_MEAN = (0.485, 0.456, 0.406)  # ImageNet's, which DINO's inputs are normalised with
IMAGE_STD = (0.229, 0.224, 0.225)


def load_dino(
    name_or_path: str,
    device: torch.device,
    dtype: torch.dtype,
    key: str = KEY,
    subfolder: str = "",
) -> ViTModel:
    """A frozen DINO backbone without a pooler, in eval mode; give images to `cls_features`.

    Args:
        name_or_path: a folder in transformers layout, a hub name such as facebook/dino-vits16, or
            a checkpoint file of facebookresearch/dino (dino_deitsmall16_pretrain.pth) here or on
            the hub.
        key: the config key to name in errors.
        subfolder: where in the folder or the hub's repository the model lies.

    Raises: as `load_model`.
    """
    vit = load_model(ViTModel, name_or_path, subfolder, device, dtype, key, add_pooling_layer=False)
    return match_dino(vit)


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
