"""Encodings and MLPs as configs name them."""

import pytest
import torch
from omegaconf import OmegaConf
from threestudio.models.networks import get_encoding, get_mlp

GRID = {
    "otype": "HashGrid",
    "n_levels": 4,
    "n_features_per_level": 2,
    "log2_hashmap_size": 8,
    "base_resolution": 4,
    "per_level_scale": 1.5,
}
MLP = {
    "otype": "VanillaMLP",
    "activation": "ReLU",
    "output_activation": "none",
    "n_neurons": 8,
    "n_hidden_layers": 2,
}


def test_the_point_itself_comes_first_mapped_to_minus_one_to_one():
    plain, composite = get_encoding(3, GRID), get_encoding(3, {**GRID, "include_xyz": True})
    x = torch.rand(7, 3)
    assert list(plain.state_dict()) == ["encoding.encoding.params"]  # threestudio's key
    assert (plain.n_output_dims, composite.n_output_dims) == (8, 11)
    torch.testing.assert_close(composite(x), torch.cat([x * 2 - 1, plain(x)], dim=1))


def test_mlp_is_linear_relu_without_bias():
    network = get_mlp(5, 3, OmegaConf.create({**MLP, "output_activation": "sigmoid"}))
    weights = network.state_dict()
    assert {name: tuple(w.shape) for name, w in weights.items()} == {
        "layers.0.weight": (8, 5),
        "layers.2.weight": (8, 8),
        "layers.4.weight": (3, 8),
    }
    x = torch.randn(4, 5)
    hidden = x
    for name in ("layers.0.weight", "layers.2.weight"):
        hidden = (hidden @ weights[name].t()).relu()
    torch.testing.assert_close(network(x), (hidden @ weights["layers.4.weight"].t()).sigmoid())


def test_mlp_stays_in_single_precision_under_autocast():
    network = get_mlp(5, 3, MLP)
    x = torch.randn(4, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = network(x.bfloat16())
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, network(x.bfloat16().float()))


def test_wrong_configs_are_named():
    with pytest.raises(ValueError, match="otype='OneBlob' is not available: use one of HashGrid"):
        get_encoding(3, {"otype": "OneBlob"})
    with pytest.raises(ValueError, match="no key 'n_levles': did you mean 'n_levels'"):
        get_encoding(3, {**GRID, "n_levles": 3})
    with pytest.raises(ValueError, match="otype='FullyFusedMLP' is not available.*VanillaMLP"):
        get_mlp(3, 1, {**MLP, "otype": "FullyFusedMLP"})
    with pytest.raises(ValueError, match="activation='Softplus' is not available: use ReLU"):
        get_mlp(3, 1, {**MLP, "activation": "Softplus"})
