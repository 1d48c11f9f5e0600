"""The rasteriser in PyTorch beside a loop over pixels written from the paper, and beside gsplat."""

import math

import pytest
import torch
from threestudio_jointdreamer.data.cameras import look_at, orbit
from threestudio_jointdreamer.gaussians import rasterizer
from threestudio_jointdreamer.gaussians.rasterizer import (
    BLUR,
    Gaussians,
    rasterize,
    why_no_gsplat,
)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WIDTH, HEIGHT = 11, 8
FIELDS = ("positions", "scales", "rotations", "opacities")


def scene(dtype=torch.float64, device="cpu") -> tuple[Gaussians, torch.Tensor]:
    """Gaussians of all kinds and features of two views: tiny, huge, faint, opaque, behind."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(14, 13, generator=generator, dtype=dtype)
    positions = 0.4 * normal[:, :3]
    positions[0] = torch.tensor([30.0, 1.0, 10.0])  # behind the first camera
    positions[1] = torch.tensor([1.0, 4.0, 0.5])  # outside of the picture, its rim inside
    scales = 0.15 * (0.7 * normal[:, 3:6]).exp()
    scales[1] = 1.0
    opacities = (3 * normal[:, 6]).sigmoid()
    opacities[2:4] = torch.tensor([1.0, 0.001])
    values = (positions, scales, normal[:, 7:11], opacities, normal[:, 11:13].expand(2, -1, -1))
    *values, features = (value.clone().to(device).requires_grad_() for value in values)
    return Gaussians(*values), features


def cameras(dtype=torch.float64, device="cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """World to camera in OpenCV's axes, and intrinsics."""
    position = orbit(
        torch.tensor([20.0, 0.0]), torch.tensor([0.0, 130.0]), torch.tensor([2.0, 1.2])
    )
    c2w = look_at(position, torch.zeros(2, 3), torch.tensor([0.0, 0.0, 1.0]).expand(2, 3)).to(dtype)
    w2c = torch.linalg.inv(c2w * torch.tensor([1.0, -1.0, -1.0, 1.0]))
    intrinsics = torch.tensor([[9.0, 0, WIDTH / 2], [0, 9.5, HEIGHT / 2], [0, 0, 1]]).to(dtype)
    return w2c.to(device), intrinsics.expand(2, -1, -1).to(device)


def by_pixels(gaussians, features, w2c, intrinsics):
    """The picture of one view, pixel by pixel and Gaussian by Gaussian."""
    n = len(gaussians.positions)
    points = gaussians.positions @ w2c[:3, :3].T + w2c[:3, 3]
    (fx, _, cx), (_, fy, cy) = intrinsics[:2].tolist()
    splats = []
    for i in range(n):
        x, y, z = points[i]
        w, *xyz = gaussians.rotations[i] / gaussians.rotations[i].norm()
        v = torch.stack(xyz)
        cross = torch.stack([torch.linalg.cross(v, e) for e in torch.eye(3).to(v)], dim=1)
        rotation = torch.eye(3).to(v) + 2 * w * cross + 2 * cross @ cross
        covariance = rotation @ torch.diag(gaussians.scales[i] ** 2) @ rotation.T
        tx = z * (x / z).clamp(-1.3 * WIDTH / 2 / fx, 1.3 * WIDTH / 2 / fx)
        ty = z * (y / z).clamp(-1.3 * HEIGHT / 2 / fy, 1.3 * HEIGHT / 2 / fy)
        zero = torch.zeros_like(z)
        jacobian = torch.stack([fx / z, zero, -fx * tx / z**2, zero, fy / z, -fy * ty / z**2])
        jacobian = jacobian.view(2, 3) @ w2c[:3, :3]
        inverse = torch.linalg.inv(jacobian @ covariance @ jacobian.T + BLUR * torch.eye(2).to(z))
        splats.append((torch.stack([fx * x / z + cx, fy * y / z + cy]), inverse, z))
    order = sorted((i for i in range(n) if splats[i][2] > 0.01), key=lambda i: float(splats[i][2]))
    rows = []
    for row in range(HEIGHT):
        for column in range(WIDTH):
            rest, color = torch.ones(()).to(w2c), torch.zeros(features.shape[1]).to(w2c)
            for i in order:
                mean, inverse, _ = splats[i]
                d = torch.tensor([column + 0.5, row + 0.5]).to(mean) - mean
                alpha = (gaussians.opacities[i] * (-0.5 * d @ inverse @ d).exp()).clamp(max=0.999)
                if alpha < 1 / 255:
                    continue
                if rest * (1 - alpha) <= 1e-4:
                    break
                color, rest = color + alpha * rest * features[i], rest * (1 - alpha)
            rows.append(torch.cat([color, 1 - rest[None]]))
    return torch.stack(rows).view(HEIGHT, WIDTH, -1)


def gradients(pictures: torch.Tensor, gaussians: Gaussians, features: torch.Tensor) -> list:
    weights = torch.linspace(-1, 1, pictures.numel()).to(pictures).view_as(pictures)
    leaves = [*(getattr(gaussians, name) for name in FIELDS), features]
    return torch.autograd.grad((weights * pictures).sum(), leaves)


@pytest.mark.parametrize("at_once", [2**18, 200])
def test_pictures_and_gradients_are_those_of_a_loop_over_pixels(monkeypatch, at_once):
    monkeypatch.setattr(rasterizer, "MAX_PAIRS", at_once)
    gaussians, features = scene()
    w2c, intrinsics = cameras()
    picture = torch.cat(rasterize(gaussians, features, w2c, intrinsics, WIDTH, HEIGHT), dim=-1)
    views = zip(features, w2c, intrinsics, strict=True)
    wanted = torch.stack([by_pixels(gaussians, *view) for view in views])
    assert wanted[..., -1].min() < 0.2 and wanted[..., -1].max() > 0.99
    torch.testing.assert_close(picture, wanted)
    both = (gradients(image, gaussians, features) for image in (picture, wanted))
    for name, got, expected in zip([*FIELDS, "features"], *both, strict=True):
        assert expected.abs().max() > 0, name
        torch.testing.assert_close(got, expected, msg=name)


def test_nothing_in_sight_is_an_empty_picture_with_a_graph():
    gaussians, features = scene()
    w2c, intrinsics = cameras()
    gone = Gaussians(gaussians.positions + 100, *(getattr(gaussians, n) for n in FIELDS[1:]))
    image, opacity = rasterize(gone, features, w2c, intrinsics, WIDTH, HEIGHT)
    assert image.abs().sum() == opacity.sum() == 0 and opacity.shape == (2, HEIGHT, WIDTH, 1)
    opacity.sum().backward()


def test_half_precision_around_it_changes_nothing():
    gaussians, features = scene(torch.float32)
    w2c, intrinsics = cameras(torch.float32)
    arguments = (gaussians, features, w2c, intrinsics, WIDTH, HEIGHT)
    image, _ = rasterize(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        again, _ = rasterize(*arguments)
    assert torch.equal(image, again)


@pytest.mark.timeout(590)  # gsplat compiles its CUDA
def test_gsplat_draws_the_same_forward_and_backward():
    if reason := why_no_gsplat(DEVICE):
        pytest.skip(reason)
    gaussians, features = scene(torch.float32, DEVICE)
    w2c, intrinsics = cameras(torch.float32, DEVICE)
    arguments = (gaussians, features, w2c, intrinsics, WIDTH, HEIGHT)
    ours, theirs = (torch.cat(rasterize(*arguments, use), dim=-1) for use in (False, True))
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-3)
    both = (gradients(image, gaussians, features) for image in (ours, theirs))
    for name, got, expected in zip([*FIELDS, "features"], *both, strict=True):
        scale = float(expected.abs().max())
        assert (got - expected).abs().max() < 2e-3 * scale, name
        assert math.isfinite(scale) and scale > 0
