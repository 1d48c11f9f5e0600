"""3D Gaussians to pixels (Kerbl et al. 2023): gsplat's CUDA kernels, and their twin in PyTorch.

A Gaussian of opacity o covers α = min(0.999, o exp(-½ dᵀ Σ⁻¹ d)) of a pixel, where Σ is its
covariance projected by the camera's Jacobian (EWA, Zwicker et al. 2001), plus `BLUR`. It adds α T
to the picture, where T is the product of 1 - α over those in front of it.
"""

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

BLUR, NEAR = 0.3, 0.01  # pixels²; world units, and nothing nearer to the camera is drawn
MAX_ALPHA, MIN_ALPHA = 0.999, 1 / 255  # what covers less of a pixel is left out,
MIN_TRANSMITTANCE = 1e-4  # and so is what would leave less behind it
FRAME = 1.3  # half fields of view within which the projection is linearised
MAX_PAIRS = 2**18  # of Gaussians and pixels that PyTorch looks at, at once


@dataclass
class Gaussians:
    """N Gaussians. Their rotations are quaternions (w, x, y, z) of any length."""

    positions: Float[Tensor, "N 3"]
    scales: Float[Tensor, "N 3"]  # standard deviations, world units
    rotations: Float[Tensor, "N 4"]
    opacities: Float[Tensor, "N"]  # 0..1

    def axes(self) -> Float[Tensor, "N 3 3"]:
        """In its columns the three axes, as long as the standard deviations; Σ is A Aᵀ."""
        w, v = F.normalize(self.rotations, dim=-1)[:, None].split([1, 3], dim=-1)
        eye = torch.eye(3).to(v).expand(len(v), 3, 3)
        aside = torch.linalg.cross(v.expand_as(eye), eye)
        turned = eye + 2 * (w * aside + torch.linalg.cross(v.expand_as(eye), aside))
        return (turned * self.scales[..., None]).mT


def rasterize(
    gaussians: Gaussians,
    features: Float[Tensor, "B N D"],
    w2c: Float[Tensor, "B 4 4"],
    intrinsics: Float[Tensor, "B 3 3"],
    width: int,
    height: int,
    use_gsplat: bool = False,
) -> tuple[Float[Tensor, "B H W D"], Float[Tensor, "B H W 1"]]:
    """Composites features of the Gaussians, such as colours, and their opacity in B views.

    `w2c` is world to camera, where x is right, y down and z ahead (OpenCV); `intrinsics` are in
    pixels, and the first pixel's centre is at (0.5, 0.5).
    """
    with torch.autocast(w2c.device.type, enabled=False):  # in half precision small things move
        if not use_gsplat:
            return _plain(gaussians, features, w2c, intrinsics, width, height)
        import gsplat  # compiles its CUDA, once

        values = (gaussians.positions, gaussians.rotations, gaussians.scales, gaussians.opacities)
        values = (*values, features, w2c, intrinsics, width, height)
        return gsplat.rasterization(*values, near_plane=NEAR, eps2d=BLUR)[:2]


@cache
def why_no_gsplat(device: torch.device) -> str | None:
    """Why gsplat cannot draw on this device, found by trying; None if it can."""
    if device.type != "cuda":
        return f"gsplat draws on CUDA devices, and this is {device.type}"
    eye = torch.eye(4, device=device)[None]
    one = Gaussians(eye[0, :1, :3], eye[0, :1, :3] + 1, eye[0, :1], eye[0, 0, :1])
    try:
        rasterize(one, eye[:, :1], eye, eye[:, :3, :3], 1, 1, use_gsplat=True)
    except Exception as error:  # of its import, or whatever compilers say
        text = f"gsplat does not work ({type(error).__name__}: {str(error)[:300]}): "
        return text + 'pip install "threestudio-jointdreamer[gaussians]", with nvcc to compile it'
    return None


def _plain(gaussians, features, w2c, intrinsics, width, height):
    means, covariances, depths = project(gaussians, w2c, intrinsics, width, height)
    a, b, c = covariances.unbind(-1)
    inverse = torch.stack([c, b, a], dim=-1) / (a * c - b * b)[..., None]
    opacities = gaussians.opacities.expand(len(w2c), -1)[..., None]
    splats = torch.cat([means, inverse, opacities, features], dim=-1).flatten(0, 1)  # B*N 6+D
    with torch.no_grad():
        radii = (2 * (opacities / MIN_ALPHA).log()).sqrt() * torch.stack([a, c], dim=-1).sqrt()
        radii[(depths <= NEAR) | (opacities[..., 0] < MIN_ALPHA)] = -torch.inf
        boxes = (2 * radii.nan_to_num(0)).clamp(min=0).minimum(radii.new_tensor([width, height]))
        step = max(1, int(height * MAX_PAIRS / (1 + boxes.prod(-1).sum().item())))
    images = splats.new_zeros(len(w2c) * height * width, features.shape[-1] + 1)
    for top in range(0, height, step):
        with torch.no_grad():
            splat, pixel = _pairs(means, radii, depths, width, height, range(height)[top:][:step])
            alpha = _alpha(splats[:, :6].index_select(0, splat), pixel, width, height)
            seen = (alpha >= MIN_ALPHA).nonzero()[:, 0]
            pixel, order = pixel[seen].sort(stable=True)
            splat, alpha = splat[seen[order]], alpha[seen[order]]
            after = _transmittance(alpha, pixel) * (1 - alpha)
            splat, pixel = splat[after > MIN_TRANSMITTANCE], pixel[after > MIN_TRANSMITTANCE]
        drawn = splats.index_select(0, splat)
        alpha = _alpha(drawn, pixel, width, height)
        values = torch.cat([drawn[:, 6:], torch.ones_like(drawn[:, :1])], dim=-1)
        values = values * (alpha * _transmittance(alpha, pixel))[:, None]
        images = images.scatter_add(0, pixel.long()[:, None].expand_as(values), values)
    return images.view(len(w2c), height, width, -1).split([features.shape[-1], 1], dim=-1)


def project(gaussians, w2c, intrinsics, width, height) -> tuple[Tensor, Tensor, Tensor]:
    """In pixels means [B N 2] and covariances (xx, xy, yy) [B N 3]; depths [B N]."""
    rotation, shift = w2c[:, :3, :3], w2c[:, None, :3, 3]
    points = torch.einsum("bij,nj->bni", rotation, gaussians.positions) + shift
    axes = torch.einsum("bij,njk->bnik", rotation, gaussians.axes())
    depths = points[..., 2]
    z = torch.where(depths > NEAR, depths, 1.0)[..., None]
    focal, center = intrinsics[:, None, [0, 1], [0, 1]], intrinsics[:, None, :2, 2]
    slopes = points[..., :2] / z
    means = slopes * focal + center
    frame, middle = FRAME / 2 * z.new_tensor([width, height]), z.new_tensor([width, height]) / 2
    slopes = slopes.clamp((middle - center - frame) / focal, (middle - center + frame) / focal)
    axes = (axes[..., :2, :] - slopes[..., None] * axes[..., 2:, :]) * (focal / z)[..., None]
    covariances = (axes[..., [0, 0, 1], :] * axes[..., [0, 1, 1], :]).sum(-1)
    return means, covariances + BLUR * torch.tensor([1, 0, 1]).to(z), depths


def _pairs(means, radii, depths, width, height, rows) -> tuple[Tensor, Tensor]:
    """Splat, b N + n, and pixel, (b H + y) W + x, of all pixels in splats' boxes, front to back."""
    low = (means - radii - 0.5).ceil().maximum(means.new_tensor([0, rows.start]))
    high = (means + radii - 0.5).floor().minimum(means.new_tensor([width, rows.stop]) - 1)
    n_wide, n_high = (high - low + 1).nan_to_num(0).clamp(min=0).int().unbind(-1)
    view = torch.arange(len(depths), device=means.device, dtype=torch.int32)[:, None]
    column, row = low.nan_to_num(0, 0).clamp(max=max(width, height)).int().unbind(-1)
    corner = (view * height + row) * width + column
    order = depths.argsort(dim=1, stable=True)
    n_wide, n_high, corner = (x.gather(1, order).flatten() for x in (n_wide, n_high, corner))
    area = n_wide * n_high
    owner = torch.repeat_interleave(area)
    place = torch.arange(len(owner), device=owner.device, dtype=torch.int32)
    place -= (area.cumsum(0) - area).int().index_select(0, owner)  # within the box
    n_wide = n_wide.index_select(0, owner)
    pixel = corner.index_select(0, owner) + place // n_wide * (width - n_wide) + place
    return (order + depths.shape[1] * view).flatten().index_select(0, owner), pixel


def _alpha(splats: Float[Tensor, "P C"], pixel: Tensor, width: int, height: int) -> Tensor:
    """How much each splat covers of its pixel."""
    row = pixel // width
    dx = pixel - row * width + 0.5 - splats[:, 0]
    dy = row % height + 0.5 - splats[:, 1]
    a, b, c, opacity = splats[:, 2:6].unbind(-1)
    power = b * dx * dy - 0.5 * (a * dx * dx + c * dy * dy)
    return (opacity * power.exp()).clamp(max=MAX_ALPHA)


def _transmittance(alpha: Float[Tensor, "P"], pixel: Tensor) -> Float[Tensor, "P"]:
    """The product of 1 - α over what is before each in its pixel."""
    log = torch.log1p(-alpha.double())
    before = log.cumsum(0) - log  # one sum through all pixels, too long for single precision
    count = pixel.bincount()
    first = (count.cumsum(0) - count).index_select(0, pixel)
    return (before - before.index_select(0, first)).exp().to(alpha)
