"""The networks' kernels against PyTorch, and a geometry that uses them against one that does not.

Without a GPU this file runs itself once more in a process where Triton interprets its kernels.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from threestudio.models import fused_field

ROOT = Path(__file__).resolve().parents[3]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
SIZES = [(150, 32, 64, 3), (64, 6, 24, 5), (1, 32, 64, 3), (0, 8, 64, 3)]  # M, D, H, C


def tensors(device, m, d, h, c):
    torch.manual_seed(0)
    shapes = (m, d), (h, d), (1, h), (h, d), (c, h)
    return [torch.randn(shape, device=device, requires_grad=True) for shape in shapes]


def results(function, device, sizes):
    encoded, w1, w2, v1, v2 = inputs = tensors(device, *sizes)
    out = function(encoded, (w1, w2), (v1, v2))
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator).to(device) for x in out]
    loss = sum((x * weight).sum() for x, weight in zip(out, weights, strict=True))
    return [*out, *torch.autograd.grad(loss, inputs)]


@pytest.mark.parametrize("sizes", SIZES)
def test_kernels_are_the_plain_twin(sizes):
    pytest.importorskip("triton", reason="Triton is not installed")
    if not INTERPRETED and not torch.cuda.is_available():
        pytest.skip("no CUDA device; the interpreter's test runs this")
    device = "cpu" if INTERPRETED else "cuda"
    expected = results(fused_field.field_plain, device, sizes)
    for ours, plain in zip(results(fused_field.fused_field, device, sizes), expected, strict=True):
        atol = 1e-5 * plain.abs().max().item() if plain.numel() else 0
        torch.testing.assert_close(ours, plain, rtol=0, atol=atol)
    encoded, w1, w2, *_ = tensors(device, *sizes)
    raw = fused_field.fused_density(encoded.detach(), (w1, w2))
    torch.testing.assert_close(raw, expected[0].detach(), rtol=1e-5, atol=1e-4)


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_kernels_in_tritons_interpreter():
    pytest.importorskip("triton", minversion="3.6", reason="no Triton")
    path = [str(ROOT / "jointdreamer" / "standalone"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    command = [sys.executable, "-m", "pytest", "--noconftest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-k", "twin", __file__],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.skipif(INTERPRETED, reason="of the geometry alone")
@pytest.mark.parametrize("bias", ["blob_magic3d", "blob_dreamfusion", -1.0])
def test_a_fused_geometry_has_the_same_numbers(bias, monkeypatch):
    import threestudio

    torch.manual_seed(0)
    grid = {"otype": "HashGrid", "n_levels": 4, "log2_hashmap_size": 8}
    settings = {"density_bias": bias, "normal_type": "analytic", "pos_encoding_config": grid}
    geometry = threestudio.find("implicit-volume")(settings).double()
    torch.nn.init.normal_(geometry.encoding.encoding.encoding.params)
    points = torch.rand(2, 50, 3, dtype=torch.double) * 1.8 - 0.9
    parameters = list(geometry.parameters())

    def numbers():
        out = geometry(points, output_normal=True)
        weights = torch.Generator().manual_seed(1)
        loss = sum(
            (x * torch.randn(x.shape, generator=weights, dtype=x.dtype)).sum() for x in out.values()
        )
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            again = geometry(points, output_normal=True)
            density = geometry.forward_density(points)
        assert not any(x.requires_grad for x in again.values())
        return [*out.values(), *gradients, *again.values(), density]

    expected = numbers()
    monkeypatch.setattr(fused_field, "kernels_work", lambda weight: True)
    monkeypatch.setattr(fused_field, "fused_field", fused_field.field_plain)
    plain = fused_field.field_plain
    monkeypatch.setattr(fused_field, "fused_density", lambda e, w: plain(e, w, w)[0])
    for ours, others in zip(numbers(), expected, strict=True):
        torch.testing.assert_close(ours, others, rtol=1e-9, atol=1e-9)
