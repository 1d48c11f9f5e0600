"""Tensor operations against closed forms."""

import math

import pytest
import torch
from threestudio.utils import ops


def test_scale_tensor_maps_one_range_onto_another():
    x = torch.tensor([-1.0, 0.0, 1.0])
    assert ops.scale_tensor(x, (-1, 1), (0, 10)).tolist() == [0, 5, 10]
    assert ops.scale_tensor(x, None, None).tolist() == x.tolist()
    box = torch.tensor([[0.0, 0.0, -1.0], [2.0, 4.0, 1.0]])
    assert ops.scale_tensor(torch.ones(1, 3), box, (0, 1)).tolist() == [[0.5, 0.25, 1.0]]


@pytest.mark.parametrize(
    ("name", "function"),
    [
        (None, lambda x: x),
        ("shifted_exp", lambda x: math.exp(x - 1)),
        ("softplus", lambda x: math.log1p(math.exp(x))),
        ("shifted_softplus", lambda x: math.log1p(math.exp(x - 1))),
        ("scale_-11_01", lambda x: x / 2 + 0.5),
        ("ReLU", lambda x: max(x, 0.0)),
    ],
)
def test_activations_are_the_functions_they_are_named_after(name, function):
    points = [-2.0, -0.3, 0.001, 0.4, 1.7]
    got = ops.get_activation(name)(torch.tensor(points, dtype=torch.float64))
    assert got.tolist() == pytest.approx([function(x) for x in points], abs=1e-9)


def test_unknown_activations_are_told():
    for name in ("softplussss", "math"):
        with pytest.raises(ValueError, match=f"activation '{name}' is unknown"):
            ops.get_activation(name)


@pytest.mark.parametrize("chunk", [0, 1, 3, 100])
def test_chunks_give_what_one_call_gives(chunk):
    x, y = torch.randn(7, 2), torch.randn(7)

    def single(x, scale, y):
        return x * scale + y[:, None]

    assert torch.equal(ops.chunk_batch(single, chunk, x, 2.0, y=y), single(x, 2.0, y))
    pair = ops.chunk_batch(lambda x: (x, None), chunk, x)
    assert isinstance(pair, tuple) and torch.equal(pair[0], x) and pair[1] is None
    assert isinstance(ops.chunk_batch(lambda x: [x, x], chunk, x), list)
    named = ops.chunk_batch(lambda x: {"a": x.sum(-1)}, chunk, x)
    assert torch.equal(named["a"], x.sum(-1))
    assert ops.chunk_batch(lambda x: None, chunk, x) is None
    assert ops.chunk_batch(lambda x: x * 2, 5, x[:0]).shape == (0, 2)
    x.requires_grad_()
    assert ops.chunk_batch(lambda x: x * 2, chunk, x).requires_grad


def test_ray_directions_look_along_minus_z_through_pixel_centres():
    directions = ops.get_ray_directions(H=2, W=4, focal=2.0)
    assert directions.shape == (2, 4, 3)
    assert directions[0, 0].tolist() == [-0.75, 0.25, -1.0]
    assert directions[1, 3].tolist() == [0.75, -0.25, -1.0]


def rigid(batch):
    rotation = torch.linalg.qr(torch.randn(batch, 3, 3)).Q
    rotation = rotation * torch.linalg.det(rotation)[:, None, None]
    c2w = torch.eye(4).repeat(batch, 1, 1)
    c2w[:, :3, :3] = rotation
    c2w[:, :3, 3] = torch.randn(batch, 3)
    return c2w


@pytest.mark.parametrize("shape", [(2, 4, 3), (3, 2, 4, 3)])
def test_rays_are_directions_turned_by_the_camera(shape):
    directions, c2w = torch.randn(shape), rigid(3)
    origins, rays = ops.get_rays(directions, c2w, keepdim=True, normalize=False)
    want = torch.einsum("bij,bhwj->bhwi", c2w[:, :3, :3], directions.expand(3, 2, 4, 3))
    assert torch.allclose(rays, want, atol=1e-6)
    assert torch.equal(origins, c2w[:, None, None, :3, 3].expand(3, 2, 4, 3))
    flat_origins, units = ops.get_rays(directions, c2w)
    assert torch.equal(flat_origins, origins.reshape(24, 3))
    assert torch.allclose(units, rays.reshape(24, 3) / rays.reshape(24, 3).norm(dim=-1)[:, None])


def test_the_projection_puts_the_frustum_on_the_unit_cube():
    fovy, aspect, near, far = torch.tensor([0.9]), 1.5, 0.5, 20.0
    top = math.tan(0.45)
    eye = torch.tensor([[top * aspect * near, top * near, -near, 1.0], [0.0, 0.0, -far, 1.0]])
    clip = eye @ ops.get_projection_matrix(fovy, aspect, near, far)[0].T
    device = clip[:, :3] / clip[:, 3:]
    assert torch.allclose(device, torch.tensor([[1.0, -1.0, -1.0], [0.0, 0.0, 1.0]]), atol=1e-5)
