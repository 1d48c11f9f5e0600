"""Positional encodings and small MLPs, chosen by the `otype` of a config."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

import tinycudann as tcnn
import torch
from jaxtyping import Float
from torch import Tensor, nn

from threestudio.utils.config import config_to_primitive, unknown_key_text
from threestudio.utils.ops import check_activation, get_activation


@dataclass
class HashGrid:
    otype: str
    n_levels: Annotated[int, "[1, 128]"] = 16
    n_features_per_level: Annotated[int, (1, 2, 4, 8)] = 2
    log2_hashmap_size: Annotated[int, "[1, 30]"] = 19
    base_resolution: Annotated[int, "[1, 4096]"] = 16
    per_level_scale: Annotated[float, "[1, 16]"] = 2.0
    include_xyz: bool = False


@dataclass
class SphericalHarmonics:
    otype: str
    degree: Annotated[int, "[1, 8]"] = 4
    include_xyz: bool = False


@dataclass
class MLP:
    otype: str
    n_neurons: Annotated[int, "[1, 65536]"]
    n_hidden_layers: Annotated[int, "[0, 1024]"]
    activation: Annotated[str, ("ReLU",)] = "ReLU"
    output_activation: Annotated[str | None, check_activation] = None


# the blocks of a config, by otype
ENCODINGS = {"HashGrid": HashGrid, "SphericalHarmonics": SphericalHarmonics}
NETWORKS = {"VanillaMLP": MLP}


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

    @property
    def has_input_gradient(self) -> bool:
        """Whether this is a grid of ours, and not tiny-cuda-nn's."""
        return getattr(self.encoding.encoding, "layout", None) is not None

    def input_gradient(
        self, x: Float[Tensor, "N D"], grad: Float[Tensor, "N F"], encoded: Float[Tensor, "N F"]
    ) -> Float[Tensor, "N D"]:
        """The gradient in x of <grad, encoded>, for which x needs none."""
        n_own = self.encoding.n_output_dims
        grid, own = self.encoding.encoding, grad[:, grad.shape[1] - n_own :]
        gradient = grid.input_gradient(x, own, encoded)
        return gradient + 2.0 * grad[:, : self.n_input_dims] if self.include_xyz else gradient

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

    @property
    def two_layers(self) -> tuple[Float[Tensor, "H Di"], Float[Tensor, "Do H"]] | None:
        """The weights of a network of one hidden layer, whose output is as it comes; else None."""
        if len(self.layers) != 3 or self.output_activation is not get_activation("none"):
            return None
        return self.layers[0].weight, self.layers[2].weight

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
    if otype not in ENCODINGS:
        raise ValueError(
            f"Encoding otype={otype!r} is not available: use one of {', '.join(ENCODINGS)}."
        )
    _check_keys("Encoding", config, ENCODINGS[otype])
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
    _check_keys("Network", config, MLP)
    if str(config.get("activation", "ReLU")) != "ReLU":
        raise ValueError(
            f"VanillaMLP activation={config['activation']!r} is not available: use ReLU."
        )
    return VanillaMLP(n_input_dims, n_output_dims, config)


def _check_keys(owner: str, config: Mapping[str, Any], block: type) -> None:
    known = [field.name for field in fields(block)]
    for key in config:
        if key not in known:
            raise ValueError(unknown_key_text(key, f"{owner} {config['otype']}", key, known))
