"""Marching and compositing in PyTorch against loops over single rays."""

import math

import nerfacc
import numpy as np
import pytest
import torch
from threestudio.models.renderers import marching
from threestudio.models.renderers.marching import render_weights, sample_rays

STEP = 0.07
SIZE = 8


@pytest.fixture
def estimator():
    grid = nerfacc.OccGridEstimator(
        roi_aabb=[-1.0, -1.0, -1.0, 1.0, 1.0, 1.0], resolution=SIZE, levels=1
    )
    torch.manual_seed(0)
    grid.binaries[:] = torch.rand(1, SIZE, SIZE, SIZE) < 0.3
    grid.occs.fill_(1.0)
    return grid


def random_rays(n=60, seed=1):
    generator = torch.Generator().manual_seed(seed)
    origins = torch.randn(n, 3, generator=generator)
    origins = 2.5 * origins / origins.norm(dim=1, keepdim=True)
    targets = torch.rand(n, 3, generator=generator) * 3 - 1.5  # some rays miss the box
    directions = torch.nn.functional.normalize(targets - origins, dim=1)
    origins[0], directions[0] = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.0, 0.0, 1.0])
    origins[1], directions[1] = torch.tensor([3.0, 0.1, 0.1]), torch.tensor([-1.0, 0.0, 0.0])
    return origins, directions


def march_by_hand(binaries, origin, direction, near, far):
    """Starts of the steps whose middle is in the box, in [near, far) and in an occupied cell."""
    starts = []
    for k in range(200):
        middle = near + (k + 0.5) * STEP
        point = origin + middle * direction
        cell = ((point + 1) / 2 * SIZE).floor().long()
        inside = bool(((cell >= 0) & (cell < SIZE)).all()) and middle < far
        if inside and bool(binaries[0, cell[0], cell[1], cell[2]]):
            starts.append(middle - 0.5 * STEP)
    return starts


def sample(estimator, rays, **options):
    options = {
        "sigma_fn": None,
        "near_plane": 0.0,
        "far_plane": 1e10,
        "render_step_size": STEP,
        "alpha_thre": 0.0,
        "stratified": False,
    } | options
    return sample_rays(estimator, *rays, **options)


@pytest.mark.parametrize("planes", [(0.0, 1e10), (1.9, 2.8)])
@pytest.mark.parametrize("steps_at_once", [2**18, 100])
def test_samples_are_the_steps_in_occupied_cells(estimator, planes, steps_at_once, monkeypatch):
    monkeypatch.setattr(marching, "_CPU_STEPS_AT_ONCE", steps_at_once)
    rays = random_rays()
    near, far = planes
    ray_indices, t_starts, t_ends = sample(estimator, rays, near_plane=near, far_plane=far)
    assert torch.equal(ray_indices, ray_indices.sort().values)
    torch.testing.assert_close(t_ends - t_starts, torch.full_like(t_starts, STEP))
    found = 0
    for ray, (origin, direction) in enumerate(zip(*rays, strict=True)):
        expected = march_by_hand(estimator.binaries, origin.double(), direction.double(), near, far)
        found += len(expected)
        torch.testing.assert_close(
            t_starts[ray_indices == ray], torch.tensor(expected), rtol=0, atol=1e-5
        )
    assert found > 100


def test_steps_are_added_up_one_by_one_as_nerfacc_does(estimator):
    """To the last bit: a product is off by more and more."""
    estimator.binaries.fill_(True)
    near, step, t = 0.1, 0.0078, np.float32(0.1)
    added_up = {float(t)}
    for _ in range(600):
        t = np.float32(t + np.float32(step))
        added_up.add(float(t))
    _, t_starts, t_ends = sample(estimator, random_rays(), near_plane=near, render_step_size=step)
    assert t_starts.numel() > 1000 and t_starts.max() > 3
    assert {*t_starts.tolist(), *t_ends.tolist()} <= added_up
    product = near + (t_starts - near).div(step).round() * step
    assert not torch.equal(product, t_starts)


def test_jitter_shifts_each_ray_by_less_than_a_step(estimator):
    estimator.binaries.fill_(True)
    rays = random_rays()
    torch.manual_seed(5)
    ray_indices, t_starts, _ = sample(estimator, rays, stratified=True)
    torch.manual_seed(5)
    shift = torch.rand(len(rays[0]))  # one number for each ray, in units of a step
    phase = (t_starts / STEP - shift[ray_indices]) % 1.0
    assert torch.minimum(phase, 1 - phase).max() < 1e-3
    assert shift.std() > 0.2


def test_transparent_and_occluded_samples_are_dropped(estimator):
    estimator.binaries.fill_(True)
    rays = random_rays()

    def sigma_fn(t_starts, t_ends, ray_indices):
        return 40.0 * (torch.sin(9 * t_starts + ray_indices)).clamp(min=0)

    every = sample(estimator, rays)
    kept = sample(estimator, rays, sigma_fn=sigma_fn, alpha_thre=0.3, early_stop_eps=1e-2)
    expected = []
    for ray in range(len(rays[0])):
        transmittance = 1.0
        for start in every[1][every[0] == ray].tolist():
            density = 40.0 * max(math.sin(9 * start + ray), 0)
            alpha = 1 - math.exp(-density * STEP)
            if alpha >= 0.3 and transmittance >= 1e-2:
                expected.append((ray, start))
            transmittance *= 1 - alpha
    assert 0 < len(expected) < len(every[0]) / 2
    assert kept[0].tolist() == [ray for ray, _ in expected]
    torch.testing.assert_close(kept[1], torch.tensor([start for _, start in expected]))


def test_the_alpha_threshold_is_at_most_the_mean_occupancy(estimator):
    estimator.binaries.fill_(True)
    estimator.occs.fill_(1e-4)

    def thin(t_starts, t_ends, ray_indices):
        return torch.full_like(t_starts, 2e-4 / STEP)

    assert len(sample(estimator, random_rays(), sigma_fn=thin, alpha_thre=0.01)[0]) > 0


def test_no_occupied_cell_or_a_miss_of_the_box_gives_no_samples(estimator):
    estimator.binaries.fill_(False)
    ray_indices, t_starts, t_ends = sample(
        estimator, random_rays(), sigma_fn=lambda *_: pytest.fail("nothing to evaluate")
    )
    assert ray_indices.dtype == torch.int64
    assert len(ray_indices) == len(t_starts) == len(t_ends) == 0
    estimator.binaries.fill_(True)
    origins = torch.tensor([[2.0, 2.0, 2.0], [0.0, 0.0, 3.0], [0.0, 5.0, 0.0]])
    directions = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    assert len(sample(estimator, (origins, directions))[0]) == 0


def test_weights_and_their_gradient_are_those_of_a_loop():
    torch.manual_seed(0)
    ray_indices = torch.tensor([0, 0, 0, 2, 5, 5, 5, 5])
    t_starts = torch.rand(8, dtype=torch.float64).cumsum(0)
    t_ends = t_starts + torch.rand(8, dtype=torch.float64)
    sigmas = torch.rand(8, dtype=torch.float64, requires_grad=True)
    expected, transmittance = [], {}
    for i, ray in enumerate(ray_indices.tolist()):
        depth = sigmas[i] * (t_ends[i] - t_starts[i])
        before = transmittance.get(ray, torch.ones((), dtype=torch.float64))
        expected.append(before * (1 - torch.exp(-depth)))
        transmittance[ray] = before * torch.exp(-depth)
    expected = torch.stack(expected)
    weights = render_weights(t_starts, t_ends, sigmas, ray_indices)
    torch.testing.assert_close(weights, expected)
    coefficients = torch.rand(8, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((weights * coefficients).sum(), sigmas)
    (by_loop,) = torch.autograd.grad((expected * coefficients).sum(), sigmas)
    torch.testing.assert_close(gradient, by_loop)


@pytest.fixture
def asked_anew():
    marching.nerfacc_kernels_available.cache_clear()
    yield
    marching.nerfacc_kernels_available.cache_clear()


@pytest.mark.parametrize(("switch", "has_gpu"), [("1", False), ("0", True)])
def test_kernels_are_not_used_without_a_gpu_nor_when_forbidden(
    asked_anew, monkeypatch, switch, has_gpu
):
    monkeypatch.setenv(marching.CUDA_SWITCH, switch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert not marching.nerfacc_kernels_available()


def test_a_gpu_without_compiled_kernels_starts_no_build(asked_anew, monkeypatch, tmp_path):
    monkeypatch.delenv(marching.CUDA_SWITCH, raising=False)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(marching.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setitem(__import__("sys").modules, "nerfacc.cuda._backend", None)
    assert not marching.nerfacc_kernels_available()
    assert list(tmp_path.iterdir()) == []
