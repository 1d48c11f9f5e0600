"""The grid encoding: tiny-cuda-nn's layout, an independent loop, fast path against plain."""

import math

import pytest
import torch
from tinycudann.grid_fast import grid_encode
from tinycudann.grid_layout import GridLayout
from tinycudann.grid_plain import grid_encode_plain

HASH = {
    "otype": "HashGrid",
    "n_levels": 5,
    "n_features_per_level": 2,
    "log2_hashmap_size": 8,
    "base_resolution": 4,
    "per_level_scale": 1.5,
}
DENSE = {"otype": "DenseGrid", "n_levels": 3, "base_resolution": 3, "per_level_scale": 1.7}
TILED = {"otype": "TiledGrid", "n_levels": 3, "base_resolution": 4, "per_level_scale": 2.0}


def layout_and_params(config, n_dims=3, seed=0, dtype=torch.float64):
    layout = GridLayout.from_config(n_dims, config)
    generator = torch.Generator().manual_seed(seed)
    return layout, torch.randn(layout.n_params, generator=generator, dtype=dtype)


def by_hand(point, params, config, n_dims):
    """tiny-cuda-nn's rule in Python numbers, one point at a time, from the configuration alone."""
    features = config.get("n_features_per_level", 2)
    primes = [1, 2654435761, 805459861]
    out, offset = [], 0
    for level in range(config["n_levels"]):
        scale = config["base_resolution"] * config["per_level_scale"] ** level - 1
        resolution = math.ceil(round(scale, 5)) + 1
        entries = (resolution**n_dims + 7) // 8 * 8
        hashed = False
        if config["otype"] == "HashGrid":
            limit = 2 ** config["log2_hashmap_size"]
            hashed, entries = limit < resolution**n_dims, min(entries, limit)
        if config["otype"] == "TiledGrid":
            entries = min(entries, config["base_resolution"] ** n_dims)
        position = [coordinate * scale + 0.5 for coordinate in point]
        value = [0.0] * features
        for corner in range(2**n_dims):
            weight, vertex = 1.0, []
            for axis in range(n_dims):
                low = math.floor(position[axis])
                upper = corner >> axis & 1
                weight *= abs(1 - upper - (position[axis] - low))
                vertex.append(low + upper)
            index = 0
            for axis in range(n_dims):
                if hashed:
                    index ^= vertex[axis] * primes[axis] % 2**32
                else:
                    index += vertex[axis] * resolution**axis
            start = (offset + index % 2**32 % entries) * features
            for feature in range(features):
                value[feature] += weight * float(params[start + feature])
        out += value
        offset += entries
    return out


WIDE = {"otype": "DenseGrid", "n_features_per_level": 8}


@pytest.mark.parametrize(
    ("n_dims", "config", "n_params"),
    [
        # two sizes that users of tiny-cuda-nn report (its issue 468) ...
        (2, {**WIDE, "n_levels": 8, "base_resolution": 2}, 699072),
        (2, {**WIDE, "n_levels": 1, "base_resolution": 1}, 64),
        # ... and that of threestudio's default geometry, in every checkpoint of it
        (3, {"otype": "HashGrid", "per_level_scale": 1.447269237440378}, 12599920),
    ],
)
def test_parameter_vector_has_tiny_cuda_nns_length(n_dims, config, n_params):
    assert GridLayout.from_config(n_dims, config).n_params == n_params


@pytest.mark.parametrize("n_dims", [2, 3])
@pytest.mark.parametrize("config", [HASH, DENSE, TILED], ids=lambda c: c["otype"])
@pytest.mark.parametrize("encode", [grid_encode, grid_encode_plain])
def test_encoding_follows_the_published_rule(encode, config, n_dims):
    layout, params = layout_and_params(config, n_dims)
    points = torch.rand(6, n_dims, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    points = torch.cat([points, torch.zeros(1, n_dims), torch.ones(1, n_dims)])  # box corners
    expected = torch.tensor([by_hand(p, params, config, n_dims) for p in points.tolist()])
    # scales are rounded to single precision in the layout, hence not 1e-12
    torch.testing.assert_close(encode(points, params, layout).float(), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("config", [HASH, DENSE, TILED], ids=lambda c: c["otype"])
@pytest.mark.parametrize("n_dims", [1, 2, 3, 4])
def test_fast_and_plain_agree(config, n_dims, monkeypatch):
    monkeypatch.setattr("tinycudann.grid_torch._CPU_CHUNK", 16)
    layout, params = layout_and_params(config, n_dims)
    points = torch.rand(50, n_dims, dtype=torch.float64)
    points[:2] = torch.tensor([[0.0], [1.0]])
    results = []
    for encode in (grid_encode, grid_encode_plain):
        x, p = points.clone().requires_grad_(), params.clone().requires_grad_()
        out = encode(x, p, layout)
        (slope,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        slope.square().sum().backward()
        results.append((out.detach(), slope.detach(), x.grad, p.grad))
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain)


@pytest.mark.parametrize("config", [HASH, DENSE, TILED], ids=lambda c: c["otype"])
def test_points_outside_the_box_wrap_around_as_unsigned_integers(config):
    layout, params = layout_and_params(config)
    points = torch.rand(40, 3, dtype=torch.float64) * 6 - 3
    torch.testing.assert_close(
        grid_encode(points, params, layout), grid_encode_plain(points, params, layout)
    )


def test_first_and_second_derivatives_match_finite_differences():
    small = {**HASH, "n_levels": 2, "log2_hashmap_size": 3, "base_resolution": 2}
    layout, params = layout_and_params(small)
    assert layout.levels[1].hashed
    points = torch.rand(3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    inputs = (points.requires_grad_(), params.requires_grad_())

    def encode(x, p):
        return grid_encode(x, p, layout)

    assert torch.autograd.gradcheck(encode, inputs)
    assert torch.autograd.gradgradcheck(encode, inputs)


def test_positions_in_the_grid_are_rounded_once():
    config = HASH | {"n_levels": 16, "base_resolution": 16, "per_level_scale": 1.447269237440378}
    level = GridLayout.from_config(3, config).levels[-1]
    points = torch.rand(3, 50_000, generator=torch.Generator().manual_seed(0))
    exact = (points.double() * level.scale + 0.5).float()
    assert torch.equal(level.position(points), exact)
    assert not torch.equal(points * level.scale + 0.5, exact)  # as two roundings would have it


def test_no_points_give_no_features_and_a_zero_gradient():
    layout, params = layout_and_params(HASH, dtype=torch.float32)
    params.requires_grad_()
    out = grid_encode(torch.rand(0, 3), params, layout)
    out.sum().backward()
    assert out.shape == (0, layout.n_output_dims)
    assert params.grad.abs().max() == 0


def test_wrong_values_are_named():
    with pytest.raises(ValueError, match="n_features_per_level=3 .* use 1, 2, 4 or 8"):
        GridLayout.from_config(3, {**HASH, "n_features_per_level": 3})
    with pytest.raises(ValueError, match="interpolation='Smoothstep'.*Linear"):
        GridLayout.from_config(3, {**HASH, "interpolation": "Smoothstep"})
    with pytest.raises(ValueError, match="type='Octree' is unknown: use one of Hash, Dense, Tiled"):
        GridLayout.from_config(3, {**HASH, "otype": "Grid", "type": "Octree"})
