"""Densification that changes no shape: 3D Gaussian Splatting as Markov Chain Monte Carlo.

Kheradmand et al. 2024, arXiv 2404.09591. Gaussians whose opacity has faded are put onto live ones,
and positions do a random walk, the further the less they cover.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.optim import Optimizer

from .rasterizer import Gaussians

DEAD, SHARPNESS = 0.005, 100.0  # the opacity below which Gaussians walk, and how soon they stop
MAX_COPIES = 51  # of one Gaussian at a time


def split(opacity: Float[Tensor, "N"], copies: Int[Tensor, "N"]) -> tuple[Tensor, Tensor]:
    """The opacity of each, and a factor for its scales, of n copies that look like one (eq. 9).

    Together they cover 1 - (1 - o' G)^n = Σ_k C(n, k) (-1)^(k-1) (o' G)^k, whose integral along a
    line is the old one; that of G^k is G's over √k.
    """
    n = copies.clamp(max=MAX_COPIES).double()
    new = -torch.expm1(torch.log1p(-opacity.double()) / n)
    k = torch.arange(1, MAX_COPIES + 1, device=new.device, dtype=torch.double)[:, None]
    choose = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma((n - k).clamp(min=0) + 1)
    terms = choose.exp() * (2 * (k % 2) - 1) * new**k / k.sqrt()
    return new.to(opacity), (opacity / torch.where(k <= n, terms, 0.0).sum(0)).to(opacity)


def walk(gaussians: Gaussians, generator: torch.Generator) -> Float[Tensor, "N 3"]:
    """A random step Σ η for each position, next to none where the opacity is well above `DEAD`."""
    axes = gaussians.axes()
    noise = torch.randn(len(axes), 3, 1, generator=generator, device=axes.device)
    faded = (SHARPNESS * (DEAD - gaussians.opacities)).sigmoid()
    return (axes @ (axes.mT @ noise))[..., 0] * faded[:, None]


def forget(optimizer: Optimizer, parameter: Tensor, rows: Bool[Tensor, "N"]) -> None:
    """Sets the optimizer's running means for these rows of a parameter to zero."""
    for value in optimizer.state.get(parameter, {}).values():
        if torch.is_tensor(value) and value.shape == parameter.shape:
            value[rows] = 0
