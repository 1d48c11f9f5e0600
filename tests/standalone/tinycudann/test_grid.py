"""The grid encoding: tiny-cuda-nn's layout, an independent loop, the fast paths against the plain.

Triton's kernels run on a CUDA device as users have them. Without one this file runs itself once
more in a process where Triton interprets its kernels, which must be said before Triton is imported.
"""

import math
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tinycudann import grid_fast, grid_torch
from tinycudann.grid_fast import grid_encode, grid_input_gradient
from tinycudann.grid_layout import GridLayout
from tinycudann.grid_plain import grid_encode_plain

ROOT = Path(__file__).resolve().parents[3]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HASH = {
    "otype": "HashGrid",
    "n_levels": 3,
    "log2_hashmap_size": 8,  # the first level is dense
    "base_resolution": 4,
    "per_level_scale": 1.5,
}
DENSE = HASH | {"log2_hashmap_size": 19, "base_resolution": 3, "per_level_scale": 1.7}
FULL_SIZE = {"otype": "HashGrid", "n_levels": 16, "per_level_scale": 1.447269237440378}


@pytest.fixture(params=["pytorch", "triton"])
def fast(request, monkeypatch):
    """Makes `grid_encode` take one way; the tensors that it takes there, and how exact it is."""
    if request.param == "pytorch":
        monkeypatch.setattr(grid_torch, "_CPU_CHUNK", 16)
        monkeypatch.setattr(grid_fast, "_operations", lambda *_: grid_torch)
        return SimpleNamespace(device="cpu", dtype=torch.float64, tolerance=1e-9)
    pytest.importorskip("triton", reason="Triton is not installed")
    if not INTERPRETED and not torch.cuda.is_available():
        pytest.skip("no CUDA device; the interpreter's test runs this")
    if INTERPRETED:
        from tinycudann import grid_triton

        monkeypatch.setattr(grid_fast, "_operations", lambda *_: grid_triton)
    device = "cpu" if INTERPRETED else "cuda"
    return SimpleNamespace(device=device, dtype=torch.float32, tolerance=2e-5)


@pytest.fixture
def cuda():
    """What Triton's interpreter has not: a GPU's arithmetic."""
    if INTERPRETED or not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    pytest.importorskip("triton", reason="Triton is not installed")
    return SimpleNamespace(device="cuda", dtype=torch.float32, tolerance=1e-4)


def points_and_params(layout, fast, n_points=150, low=0.0, high=1.0):
    points = torch.rand(n_points, 3) * (high - low) + low
    points[:2] = torch.tensor([[0.0], [1.0]])  # the box's corners
    return [t.to(fast.device, fast.dtype) for t in (points, torch.randn(layout.n_params))]


def derivatives(encode, points, params, layout, weights):
    """Values, slopes, and the gradients of a loss that holds both."""
    x, p = points.clone().requires_grad_(), params.clone().requires_grad_()
    out = encode(x, p, layout)
    (slope,) = torch.autograd.grad((out.square() * weights).sum(), x, create_graph=True)
    slope.square().sum().backward()
    first = params.clone().requires_grad_()
    encode(points, first, layout).backward(weights)
    return {"value": out, "slope": slope, "x": x.grad, "params": p.grad, "first": first.grad}


def assert_like_plain(points, params, layout, fast):
    weights = torch.randn(layout.n_output_dims, len(points)).t().to(points)  # not contiguous
    found = derivatives(grid_encode, points, params, layout, weights)
    plain = derivatives(grid_encode_plain, points, params, layout, weights)
    for name, expected in plain.items():
        tolerance = fast.tolerance * expected.abs().max().item()
        torch.testing.assert_close(
            found[name], expected, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize(
    ("config", "n_features"),
    [(HASH, 1), (HASH, 2), (HASH, 4), (HASH, 8), (DENSE, 2)],
    ids=lambda value: value if isinstance(value, int) else f"2^{value['log2_hashmap_size']}",
)
def test_fast_and_plain_agree(config, n_features, fast):
    layout = GridLayout.from_config(config | {"n_features_per_level": n_features})
    assert_like_plain(*points_and_params(layout, fast), layout, fast)


def test_the_input_gradient_by_itself_is_autograds(fast):
    layout = GridLayout.from_config(HASH)
    points, params = points_and_params(layout, fast)
    grad = torch.randn(len(points), layout.n_output_dims).to(points)

    def gradients(slope_of):
        p, g = params.clone().requires_grad_(), grad.clone().requires_grad_()
        slope = slope_of(p, g)
        return [slope.detach(), *torch.autograd.grad(slope.square().sum(), [p, g])]

    def by_autograd(p, g):
        x = points.clone().requires_grad_()
        return torch.autograd.grad(grid_encode_plain(x, p, layout), x, g, create_graph=True)[0]

    ours = gradients(lambda p, g: grid_input_gradient(g, points, p, layout))
    for found, expected in zip(ours, gradients(by_autograd), strict=True):
        tolerance = fast.tolerance * expected.abs().max().item()
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("uses", ["both", "the encoding", "its gradient in the points"])
def test_both_gradients_in_the_parameters_are_found_together(uses, fast):
    layout = GridLayout.from_config(HASH)
    points, params = points_and_params(layout, fast)
    weights = torch.randn(layout.n_output_dims, layout.n_output_dims).to(points)

    def gradients(together):
        p = params.clone().requires_grad_()
        encoded = grid_encode(points, p, layout)
        grad = (encoded @ weights).sin()  # of a network
        slope = grid_input_gradient(grad, points, p, layout, encoded if together else None)
        again = grid_input_gradient(grad, points, p, layout, encoded if together else None)
        loss = 0.0
        if uses != "its gradient in the points":
            loss = loss + encoded.cos().sum()
        if uses != "the encoding":
            loss = loss + slope.square().sum() + again.sum()
        first = torch.autograd.grad(loss, p, retain_graph=True)[0]
        loss.backward()
        torch.testing.assert_close(p.grad, first, rtol=1e-4, atol=1e-4)
        return first

    expected = gradients(False)
    tolerance = fast.tolerance * expected.abs().max().item()
    torch.testing.assert_close(gradients(True), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("config", [HASH, DENSE], ids=["hash", "dense"])
def test_points_outside_the_box_wrap_around_as_unsigned_integers(config, fast):
    layout = GridLayout.from_config(config)
    assert_like_plain(*points_and_params(layout, fast, low=-3.0, high=3.0), layout, fast)


def test_indices_are_unsigned_32_bit_numbers(fast):
    """A number of entries that is no power of two tells 2^32's wrap-around from any other."""
    layout = GridLayout.from_config(HASH)
    levels = [replace(layout.levels[0], resolution=70_001, n_entries=1000, scale=70_000.0)]
    levels.append(replace(levels[0], offset=1000, n_entries=1024, hashed=True))
    layout = replace(layout, levels=tuple(levels))
    points = (torch.randint(1, 32, (100, 3)) / 32).to(fast.device, fast.dtype)  # exact positions
    assert_like_plain(points, points_and_params(layout, fast)[1], layout, fast)


def test_no_points_give_no_features_and_a_zero_gradient(fast):
    layout = GridLayout.from_config(HASH)
    points, params = points_and_params(layout, fast)
    params.requires_grad_()
    out = grid_encode(points[:0], params, layout)
    out.sum().backward()
    assert out.shape == (0, layout.n_output_dims)
    assert params.grad.abs().max() == 0


def by_hand(point, params, config):
    """tiny-cuda-nn's rule in Python numbers, one point at a time, from the configuration alone."""
    primes = [1, 2654435761, 805459861]
    out, offset = [], 0
    for level in range(config["n_levels"]):
        scale = config["base_resolution"] * config["per_level_scale"] ** level - 1
        resolution = math.ceil(round(scale, 5)) + 1
        limit = 2 ** config["log2_hashmap_size"]
        entries = min((resolution**3 + 7) // 8 * 8, limit)
        position = [coordinate * scale + 0.5 for coordinate in point]
        value = [0.0, 0.0]
        for corner in range(8):
            weight, index = 1.0, 0
            for axis in range(3):
                low, upper = math.floor(position[axis]), corner >> axis & 1
                weight *= abs(1 - upper - (position[axis] - low))
                if limit < resolution**3:
                    index ^= (low + upper) * primes[axis] % 2**32
                else:
                    index += (low + upper) * resolution**axis
            start = (offset + index % 2**32 % entries) * 2
            value = [v + weight * float(params[start + f]) for f, v in enumerate(value)]
        out += value
        offset += entries
    return out


@pytest.mark.parametrize("config", [HASH, DENSE], ids=["hash", "dense"])
@pytest.mark.parametrize("encode", [grid_encode, grid_encode_plain])
def test_encoding_follows_the_published_rule(encode, config):
    layout = GridLayout.from_config(config)
    points = torch.cat([torch.rand(6, 3), torch.zeros(1, 3), torch.ones(1, 3)]).double()
    params = torch.randn(layout.n_params, dtype=torch.float64)
    expected = torch.tensor([by_hand(p, params, config) for p in points.tolist()])
    # scales are rounded to single precision in the layout, hence not 1e-12
    torch.testing.assert_close(encode(points, params, layout).float(), expected, rtol=0, atol=2e-5)


def test_parameter_vector_has_tiny_cuda_nns_length():
    """That of threestudio's default geometry, in every checkpoint of it."""
    assert GridLayout.from_config(FULL_SIZE).n_params == 12599920


def test_first_and_second_derivatives_match_finite_differences():
    small = {**HASH, "n_levels": 2, "log2_hashmap_size": 3, "base_resolution": 2}
    layout = GridLayout.from_config(small)
    assert layout.levels[1].hashed
    points = torch.rand(3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    params = torch.randn(layout.n_params, dtype=torch.float64)
    inputs = (points.requires_grad_(), params.requires_grad_())

    def encode(x, p):
        return grid_encode(x, p, layout)

    assert torch.autograd.gradcheck(encode, inputs)
    assert torch.autograd.gradgradcheck(encode, inputs)


def test_positions_in_the_grid_are_rounded_once():
    level = GridLayout.from_config(FULL_SIZE).levels[-1]
    points = torch.rand(3, 50_000)
    exact = (points.double() * level.scale + 0.5).float()
    assert torch.equal(level.position(points), exact)
    assert not torch.equal(points * level.scale + 0.5, exact)  # as two roundings would have it


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_features_per_level": 3}, "n_features_per_level=3 .* use 1, 2, 4 or 8"),
        ({"n_levels": 0}, "n_levels=0, base_resolution=4: both must be at least 1"),
        ({"interpolation": "Smoothstep"}, "interpolation='Smoothstep'.*Linear"),
        ({"type": "Dense"}, "type='Dense' is not available.* use type: Hash"),
    ],
)
def test_wrong_values_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        GridLayout.from_config(HASH | change)


# Triton's kernels on a GPU


def test_full_size_positions_are_rounded_once_in_the_kernels_too(cuda):
    """A second rounding is 2.4e-4 of a cell at the finest level."""
    layout = GridLayout.from_config(FULL_SIZE)
    points, params = points_and_params(layout, cuda, n_points=100_000)
    value = grid_encode(points, params, layout)
    torch.testing.assert_close(value, grid_encode_plain(points, params, layout), rtol=0, atol=2e-5)


def test_scales_on_a_gpu_are_those_that_tiny_cuda_nn_has_there(cuda):
    """Read off tiny-cuda-nn's own kernel on an H100, where some differ from the CPU's."""
    layout = GridLayout.from_config(FULL_SIZE)
    scales = [level.scale for level in layout.on(torch.device("cuda")).levels]
    for level, scale in {1: 22.1563091, 6: 146.0333862, 9: 444.7218323, 15: 4094.9987793}.items():
        assert scales[level] == pytest.approx(scale, abs=scale * 2e-8)
        assert scales[level] != layout.levels[level].scale
    assert scales[14] == layout.levels[14].scale


def test_many_points_agree_with_the_plain_twin(cuda):
    layout = GridLayout.from_config(FULL_SIZE | {"log2_hashmap_size": 15})
    assert_like_plain(*points_and_params(layout, cuda, n_points=50_000), layout, cuda)


def test_a_call_on_the_gpu_uses_the_kernels_and_waits_for_nothing(cuda):
    from tinycudann import grid_triton

    layout = GridLayout.from_config(HASH)
    points, params = points_and_params(layout, cuda)
    assert grid_fast._operations(points, params, layout) is grid_triton
    weights = torch.ones(len(points), layout.n_output_dims, device="cuda")
    derivatives(grid_encode, points, params, layout, weights)
    torch.cuda.set_sync_debug_mode("error")
    try:
        derivatives(grid_encode, points, params, layout, weights)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("change", ["switch", "double"])
def test_pytorch_serves_where_the_kernels_do_not(change, cuda, monkeypatch):
    layout = GridLayout.from_config(HASH)
    points, params = points_and_params(layout, cuda)
    if change == "switch":
        monkeypatch.setenv("JOINTDREAMER_TRITON", "0")
    else:
        points, params = points.double(), params.double()
    assert grid_fast._operations(points, params, layout) is grid_torch


def test_a_triton_that_does_not_work_is_named_once_and_replaced(monkeypatch):
    grid_triton = pytest.importorskip("tinycudann.grid_triton", reason="Triton is not installed")

    def broken(*_):
        raise RuntimeError("Failed to find C compiler.\nPlease specify one.")

    monkeypatch.setattr(grid_triton, "encode", broken)
    layout = GridLayout.from_config(DENSE | {"n_levels": 1})  # no other test's: asked once
    device = torch.device("cpu")
    with pytest.warns(UserWarning, match=r"not work here \(Failed to find C compiler. Please"):
        assert grid_fast._working_triton(layout, device) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert grid_fast._working_triton(layout, device) is None


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_the_same_in_tritons_interpreter():
    reason = "no Triton, or one whose interpreter loads wrong numbers with today's numpy"
    pytest.importorskip("triton", minversion="3.6", reason=reason)
    path = [str(ROOT / "jointdreamer" / "standalone"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    command = [sys.executable, "-m", "pytest", "--noconftest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-k", "triton and not interpreter", __file__],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
