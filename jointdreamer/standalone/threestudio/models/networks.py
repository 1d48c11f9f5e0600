"""Positional encodings and small MLPs, chosen by the `otype` of a config."""

from collections.abc import Mapping
from typing import Any

import tinycudann as tcnn
import torch
from jaxtyping import Float
from torch import Tensor, nn

from threestudio.utils.config import config_to_primitive, unknown_key_text
from threestudio.utils.ops import get_activation

_COMMON_KEYS = {"otype", "include_xyz"}
_ENCODING_KEYS = {
    "HashGrid": {
        "n_levels",
        "n_features_per_level",
        "log2_hashmap_size",
        "base_resolution",
        "per_level_scale",
    },
    "SphericalHarmonics": {"degree"},
}
_MLP_KEYS = {"otype", "activation", "output_activation", "n_neurons", "n_hidden_layers"}


class TCNNEncoding(nn.Module):
    """One of tiny-cuda-nn's encodings, in single precision."""

    def __init__(
        self, in_channels: int, config: Mapping[str, Any], dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.n_input_dims = in_channels
        self.encoding = tcnn.Encoding(in_channels, config, dtype=dtype)
        self.n_output_dims: int = self.encoding.n_output_dims

    def forward(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N F"]:
        return self.encoding(x)


class CompositeEncoding(nn.Module):
    """An encoding of points in [0, 1], with the points mapped to [-1, 1] in front if asked for."""

    def __init__(self, encoding: nn.Module, include_xyz: bool = False) -> None:
        super().__init__()
        self.encoding = encoding
        self.include_xyz = include_xyz
        self.n_input_dims: int = encoding.n_input_dims
        self.n_output_dims: int = encoding.n_output_dims + (self.n_input_dims if include_xyz else 0)

    def forward(self, x: Float[Tensor, "N D"], *args) -> Float[Tensor, "N F"]:
        encoded = self.encoding(x, *args)
        if not self.include_xyz:
            return encoded
        return torch.cat([x * 2.0 - 1.0, encoded], dim=-1)


class VanillaMLP(nn.Module):
    """Linear layers without bias, ReLU between; in the weights' precision, autocast or not."""

    def __init__(self, dim_in: int, dim_out: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.n_neurons = int(config["n_neurons"])
        self.n_hidden_layers = int(config["n_hidden_layers"])
        widths = [dim_in, *[self.n_neurons] * max(self.n_hidden_layers, 1)]
        layers: list[nn.Module] = []
        for width_in, width_out in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(width_in, width_out, bias=False), nn.ReLU(inplace=True)]
        layers.append(nn.Linear(widths[-1], dim_out, bias=False))
        self.layers = nn.Sequential(*layers)
        self.output_activation = get_activation(config.get("output_activation"))

    def forward(self, x: Float[Tensor, "*N Di"]) -> Float[Tensor, "*N Do"]:
        with torch.autocast(x.device.type, enabled=False):
            return self.output_activation(self.layers(x.to(self.layers[0].weight.dtype)))


def get_encoding(n_input_dims: int, config: Mapping[str, Any]) -> CompositeEncoding:
    """The encoding that `config.otype` names, for points in [0, 1].

    Raises:
        ValueError: for an otype that this host lacks, or a key that its otype does not have.
    """
    config = config_to_primitive(config)
    otype = config.get("otype")
    if otype not in _ENCODING_KEYS:
        raise ValueError(
            f"Encoding otype={otype!r} is not available: use one of {', '.join(_ENCODING_KEYS)}."
        )
    _check_keys("Encoding", config, _ENCODING_KEYS[otype] | _COMMON_KEYS)
    encoding = TCNNEncoding(n_input_dims, config)
    return CompositeEncoding(encoding, include_xyz=bool(config.get("include_xyz", False)))


def get_mlp(n_input_dims: int, n_output_dims: int, config: Mapping[str, Any]) -> VanillaMLP:
    """The network that `config.otype` names.

    Raises:
        ValueError: for an otype that this host lacks, or a key that the network does not have.
    """
    config = config_to_primitive(config)
    if config.get("otype") != "VanillaMLP":
        raise ValueError(
            f"Network otype={config.get('otype')!r} is not available in the standalone host: "
            "use otype: VanillaMLP, or threestudio with tiny-cuda-nn."
        )
    _check_keys("Network", config, _MLP_KEYS)
    if str(config.get("activation", "ReLU")) != "ReLU":
        raise ValueError(
            f"VanillaMLP activation={config['activation']!r} is not available: use ReLU."
        )
    return VanillaMLP(n_input_dims, n_output_dims, config)


def _check_keys(owner: str, config: Mapping[str, Any], known: set[str]) -> None:
    for key in config:
        if key not in known:
            raise ValueError(unknown_key_text(key, f"{owner} {config['otype']}", key, known))
