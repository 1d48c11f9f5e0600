"""Augmentation: clean renders become like those of distilled NeRFs, soft, noisy, off-centre."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def augment(images: Float[Tensor, "B 3 H W"], size: int) -> Float[Tensor, "B 3 size size"]:
    """Each picture changed in its own way; draws come from torch's global generator.

    Args:
        images: colours in [0, 1].
        size: height and width of the result.
    """
    images = _blur(_add_blotches(_jitter_colors(_transform(images, size))))
    strength = _some(len(images), 0.5, 0.08, images)
    return (images + strength * torch.randn_like(images)).clamp(0, 1)


def _uniform(n: int, low: float, high: float, like: Tensor) -> Tensor:
    return low + (high - low) * torch.rand(n, 1, 1, 1, device=like.device)


def _some(n: int, chance: float, most: float, like: Tensor) -> Tensor:
    """Strengths [n 1 1 1] up to `most`, zero for all but a share of `chance`."""
    return _uniform(n, 0, most, like) * (_uniform(n, 0, 1, like) < chance)


def _transform(images: Tensor, size: int) -> Tensor:
    """Scaled, shifted, a little tilted and mirrored."""
    n = len(images)
    scale, tilt = _uniform(n, 0.8, 1.3, images), _uniform(n, -0.12, 0.12, images)
    flip = _uniform(n, -1, 1, images).sign()
    shift = torch.cat([_uniform(n, -0.12, 0.12, images), _uniform(n, -0.2, 0.2, images)], dim=1)
    x = torch.cat([tilt.cos() * flip, -tilt.sin()], dim=1) * scale
    y = torch.cat([tilt.sin() * flip, tilt.cos()], dim=1) * scale
    rows = torch.stack([x, y], dim=1).view(n, 2, 2)
    theta = torch.cat([rows, shift.view(n, 2, 1)], dim=2)
    grid = F.affine_grid(theta, [n, 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _jitter_colors(images: Tensor) -> Tensor:
    """Brightness, contrast, saturation and a cast of colour."""
    n = len(images)
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * _uniform(n, 0.5, 1.5, images)
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    images = middle + (images - middle) * _uniform(n, 0.7, 1.3, images)
    cast = 1 + 0.12 * torch.randn(n, 3, 1, 1, device=images.device)
    return (images * cast + _uniform(n, -0.1, 0.1, images)).clamp(0, 1)


def _add_blotches(images: Tensor) -> Tensor:
    """Blotches of colour at one of several scales, and of transparency."""
    n, _, height, width = images.shape
    for cells, chance, most in ((4, 0.3, 0.12), (10, 0.3, 0.16), (24, 0.4, 0.2)):
        coarse = torch.randn(n, 3, cells, cells, device=images.device)
        blotches = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
        images = images + _some(n, chance, most, images) * blotches
    behind = images[:, :, :2].mean(dim=(2, 3), keepdim=True)
    clear = torch.rand(n, 1, 6, 6, device=images.device)
    clear = F.interpolate(clear, (height, width), mode="bilinear", align_corners=False)
    return torch.lerp(images, behind.expand_as(images), clear * _some(n, 0.3, 0.6, images))


def _blur(images: Tensor) -> Tensor:
    """A Gaussian blur of up to 1.6 pixels, more across or more upright."""
    n, channels, size, _ = images.shape
    reach = torch.arange(-4, 5, device=images.device)
    for upright in (False, True):
        sigma = _uniform(n, 0.0, 1.6, images).view(n, 1).clamp_min(1e-3)
        kernel = torch.exp(-0.5 * (reach / sigma) ** 2)
        kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
        kernel = kernel[:, None, :, None] if upright else kernel[:, None, None, :]
        padding = (0, 0, 4, 4) if upright else (4, 4, 0, 0)
        flat = F.pad(images.reshape(1, n * channels, size, size), padding, mode="replicate")
        images = F.conv2d(flat, kernel, groups=n * channels).view(n, channels, size, size)
    return images
