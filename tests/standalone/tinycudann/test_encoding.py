"""`tinycudann.Encoding`: the module, and the encodings without parameters against closed forms."""

import math

import numpy as np
import pytest
import tinycudann as tcnn
import torch
from tinycudann.spherical_harmonics import spherical_harmonics_encode


def sphere_points(n=64):
    points = torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return points / points.norm(dim=1, keepdim=True)


def encode_directions(directions, degree):
    return spherical_harmonics_encode((directions + 1) / 2, degree)


def test_first_bands_of_spherical_harmonics_are_the_known_polynomials():
    d = sphere_points()
    x, y, z = d.unbind(-1)
    a, b = math.sqrt(3 / (4 * math.pi)), math.sqrt(15 / (4 * math.pi))
    expected = [
        torch.full_like(x, math.sqrt(1 / (4 * math.pi))),
        *(-a * y, a * z, -a * x),
        *(b * x * y, -b * y * z, math.sqrt(5 / (16 * math.pi)) * (3 * z * z - 1), -b * x * z),
        b / 2 * (x * x - y * y),
    ]
    torch.testing.assert_close(encode_directions(d, 3), torch.stack(expected, dim=-1))


def test_spherical_harmonics_are_orthonormal_up_to_degree_8():
    # Gauss-Legendre in z and equal steps in the angle integrate these polynomials exactly
    z, weight = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(16))
    angle = torch.arange(32, dtype=torch.float64) * 2 * math.pi / 32
    radius = (1 - z**2).sqrt()[:, None]
    directions = torch.stack(
        [radius * angle.cos(), radius * angle.sin(), z[:, None].expand(-1, 32)], dim=-1
    )
    values = encode_directions(directions.view(-1, 3), 8).view(16, 32, 64)
    gram = torch.einsum("z,zaj,zak->jk", weight, values, values) * 2 * math.pi / 32
    torch.testing.assert_close(gram, torch.eye(64, dtype=torch.float64), atol=1e-10, rtol=0)


def test_grid_parameters_are_small_uniform_and_a_function_of_the_seed_alone():
    config = {"otype": "HashGrid", "n_levels": 4, "log2_hashmap_size": 10}
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, two = tcnn.Encoding(3, config), tcnn.Encoding(3, config)
    other = tcnn.Encoding(3, config, seed=7)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.params, two.params)
    assert not torch.equal(one.params, other.params)
    assert one.params.abs().max() <= 1e-4
    assert abs(one.params.std().item() - 1e-4 / math.sqrt(3)) < 2e-6
    assert list(one.state_dict()) == ["params"]
    assert list(tcnn.Encoding(3, {"otype": "SphericalHarmonics"}).state_dict()) == ["params"]


@pytest.mark.parametrize("otype", ["HashGrid", "Grid"])  # threestudio's progressive band is a Grid
def test_half_precision_points_give_single_precision_features(otype):
    encoding = tcnn.Encoding(3, {"otype": otype, "n_levels": 2, "log2_hashmap_size": 8})
    assert encoding(torch.rand(4, 3).half()).dtype == torch.float32


@pytest.mark.parametrize(
    ("n_dims", "config", "dtype", "message"),
    [
        (3, {"otype": "OneBlob"}, None, "otype='OneBlob' is unknown here: use HashGrid"),
        (3, {"otype": "SphericalHarmonics", "degree": 9}, None, "degree=9 .* use 1 to 8"),
        (3, {"otype": "SphericalHarmonics"}, torch.float16, "dtype=torch.float16"),
        (2, {"otype": "HashGrid"}, None, "3 input dimensions, not 2"),
    ],
)
def test_wrong_configurations_are_named(n_dims, config, dtype, message):
    with pytest.raises(ValueError, match=message):
        tcnn.Encoding(n_dims, config, dtype=dtype)


def test_networks_are_said_to_be_tiny_cuda_nns():
    with pytest.raises(AttributeError, match="VanillaMLP"):
        tcnn.Network  # noqa: B018
