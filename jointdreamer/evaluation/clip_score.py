"""CLIP score: how well pictures and texts agree, as CLIP sees it."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def similarities(images: Float[Tensor, "V D"], texts: Float[Tensor, "P D"]) -> Float[Tensor, "V P"]:
    """100 times the cosine of every picture's embedding with every text's."""
    return 100 * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T


def clip_score(images: Float[Tensor, "V D"], text: Float[Tensor, " D"]) -> float:
    """The mean over views of 100 cos(image, text), negative cosines not cut off.

    This is the convention of text-to-3D papers. CLIPScore of Hessel et al. (2021,
    arXiv 2104.08718) is 2.5 max(cos, 0) for one picture.
    """
    return similarities(images, text[None]).mean().item()
