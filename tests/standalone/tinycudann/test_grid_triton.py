"""The Triton kernels of the grid encoding against its plain twin, up to second derivatives.

On a CUDA device the kernels run as users have them. Without one this file runs itself once more in
a process where Triton interprets its kernels, which must be said before Triton is imported.
"""

import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tinycudann import grid_fast, grid_torch
from tinycudann.grid_fast import grid_encode
from tinycudann.grid_layout import GridLayout
from tinycudann.grid_plain import grid_encode_plain

ROOT = Path(__file__).resolve().parents[3]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HASH = {
    "otype": "HashGrid",
    "n_levels": 3,
    "log2_hashmap_size": 6,  # hashed levels in two dimensions, too
    "base_resolution": 4,
    "per_level_scale": 1.5,
}
DENSE = {"otype": "DenseGrid", "n_levels": 2, "base_resolution": 3, "per_level_scale": 1.7}
TILED = {"otype": "TiledGrid", "n_levels": 2, "base_resolution": 5, "per_level_scale": 2.0}
FULL_SIZE = {"otype": "HashGrid", "n_levels": 16, "per_level_scale": 1.447269237440378}


@pytest.fixture
def device(monkeypatch):
    """Where grid_encode runs the kernels."""
    pytest.importorskip("triton", reason="Triton is not installed")
    if INTERPRETED:
        from tinycudann import grid_triton

        monkeypatch.setattr(grid_fast, "_operations", lambda *_: grid_triton)
        return "cpu"
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device; the interpreter's test runs this")
    return "cuda"


@pytest.fixture
def cuda(device):
    if device != "cuda":
        pytest.skip("Triton's interpreter has no GPU's arithmetic")
    return device


def derivatives(encode, points, params, layout, weights):
    """Values, slopes, and the gradients of a loss that holds both."""
    x, p = points.clone().requires_grad_(), params.clone().requires_grad_()
    out = encode(x, p, layout)
    (slope,) = torch.autograd.grad((out.square() * weights).sum(), x, create_graph=True)
    slope.square().sum().backward()
    first = params.clone().requires_grad_()
    (encode(points, first, layout) * weights).sum().backward()
    return {"value": out, "slope": slope, "x": x.grad, "params": p.grad, "first": first.grad}


def assert_like_plain(points, params, layout, tolerance=2e-5):
    weights = torch.randn(len(points), layout.n_output_dims).to(points.device)
    fast = derivatives(grid_encode, points, params, layout, weights)
    plain = derivatives(grid_encode_plain, points, params, layout, weights)
    for name, expected in plain.items():
        size = expected.abs().max().item()
        torch.testing.assert_close(
            fast[name], expected, rtol=0, atol=tolerance * size, msg=lambda m, n=name: f"{n}: {m}"
        )


def points_and_params(layout, device, n_points=150, low=0.0, high=1.0):
    points = torch.rand(n_points, layout.n_input_dims) * (high - low) + low
    points[:2] = torch.tensor([[0.0], [1.0]])  # the box's corners
    return points.to(device), torch.randn(layout.n_params).to(device)


@pytest.mark.parametrize(
    ("config", "n_dims", "n_features"),
    [*((HASH, 3, n) for n in (1, 2, 4, 8)), (HASH, 2, 4), (DENSE, 2, 2), (TILED, 3, 1)],
    ids=lambda value: str(value["otype"] if isinstance(value, dict) else value),
)
def test_kernels_agree_with_the_plain_twin(config, n_dims, n_features, device):
    layout = GridLayout.from_config(n_dims, config | {"n_features_per_level": n_features})
    assert_like_plain(*points_and_params(layout, device), layout)


@pytest.mark.parametrize("config", [HASH, DENSE, TILED], ids=lambda c: c["otype"])
def test_points_outside_the_box_wrap_around_in_the_kernels_too(config, device):
    layout = GridLayout.from_config(3, config)
    assert_like_plain(*points_and_params(layout, device, low=-3.0, high=3.0), layout)


def test_indices_are_unsigned_32_bit_numbers(device):
    """Numbers of entries that are no powers of two tell 2^32's wrap-around from any other."""
    layout = GridLayout.from_config(3, HASH)
    levels = [replace(layout.levels[0], resolution=70_001, n_entries=1000, scale=70_000.0)]
    levels.append(replace(levels[0], offset=1000, hashed=True))
    layout = replace(layout, levels=tuple(levels))
    points = (torch.randint(1, 32, (100, 3)) / 32).to(device)  # positions are exact
    params = torch.randn(layout.n_params).to(device)
    assert_like_plain(points, params, layout)


def test_single_gradients_agree_with_pytorchs(device):
    from tinycudann import grid_triton

    layout = GridLayout.from_config(3, HASH)
    points, params = points_and_params(layout, device)
    grad = torch.randn(layout.n_output_dims, len(points)).to(device).t()  # not contiguous
    cotangent = torch.randn(1, 3).to(device).expand(len(points), 3)
    for needs in [(True, True, True), (True, True, False)]:
        arguments = (cotangent, grad, points, params, layout, needs)
        ours = grid_triton.input_gradient_backward(*arguments)
        theirs = grid_torch.input_gradient_backward(*arguments)
        for mine, expected in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-3)


def test_no_points_give_no_features_and_a_zero_gradient(device):
    layout = GridLayout.from_config(3, HASH)
    params = torch.randn(layout.n_params).to(device).requires_grad_()
    out = grid_encode(torch.rand(0, 3).to(device), params, layout)
    out.sum().backward()
    assert out.shape == (0, layout.n_output_dims)
    assert params.grad.abs().max() == 0


def test_full_size_positions_are_rounded_once(cuda):
    """A second rounding is 2.4e-4 of a cell at the finest level."""
    layout = GridLayout.from_config(3, FULL_SIZE)
    points, params = points_and_params(layout, cuda, n_points=100_000)
    value = grid_encode(points, params, layout)
    torch.testing.assert_close(value, grid_encode_plain(points, params, layout), rtol=0, atol=2e-5)


def test_scales_on_a_gpu_are_those_that_tiny_cuda_nn_has_there(cuda):
    """Read off tiny-cuda-nn's own kernel on an H100, where some differ from the CPU's."""
    layout = GridLayout.from_config(3, FULL_SIZE)
    scales = [level.scale for level in layout.on(cuda).levels]
    for level, scale in {1: 22.1563091, 6: 146.0333862, 9: 444.7218323, 15: 4094.9987793}.items():
        assert scales[level] == pytest.approx(scale, abs=scale * 2e-8)
        assert scales[level] != layout.levels[level].scale
    assert scales[14] == layout.levels[14].scale


def test_many_points_agree_with_the_plain_twin(cuda):
    layout = GridLayout.from_config(3, FULL_SIZE | {"log2_hashmap_size": 15})
    assert_like_plain(*points_and_params(layout, cuda, n_points=50_000), layout, tolerance=1e-4)


def test_a_call_on_the_gpu_uses_the_kernels_and_waits_for_nothing(cuda):
    from tinycudann import grid_triton

    layout = GridLayout.from_config(3, HASH)
    points, params = points_and_params(layout, cuda)
    assert grid_fast._operations(points, params, layout) is grid_triton
    weights = torch.ones(len(points), layout.n_output_dims, device=cuda)
    derivatives(grid_encode, points, params, layout, weights)
    torch.cuda.set_sync_debug_mode("error")
    try:
        derivatives(grid_encode, points, params, layout, weights)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("change", ["switch", "double", "four dimensions"])
def test_pytorch_serves_where_the_kernels_do_not(change, cuda, monkeypatch):
    layout = GridLayout.from_config(4 if change == "four dimensions" else 3, HASH)
    points, params = points_and_params(layout, cuda)
    if change == "switch":
        monkeypatch.setenv("JOINTDREAMER_TRITON", "0")
    if change == "double":
        points, params = points.double(), params.double()
    assert grid_fast._operations(points, params, layout) is grid_torch


def test_a_triton_that_does_not_work_is_named_once_and_replaced(monkeypatch):
    grid_triton = pytest.importorskip("tinycudann.grid_triton", reason="Triton is not installed")

    def broken(*_):
        raise RuntimeError("Failed to find C compiler.\nPlease specify one.")

    monkeypatch.setattr(grid_triton, "encode", broken)
    layout = GridLayout.from_config(2, TILED | {"n_levels": 1})  # no other test's: asked once
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
        [*command, "-k", "not interpreter", __file__],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
