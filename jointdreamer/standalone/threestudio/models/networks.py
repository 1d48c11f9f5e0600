"""Positional encodings and small MLPs, chosen by the `otype` of a config."""

import difflib
import math
from collections.abc import Mapping
from typing import Any

import tinycudann as tcnn
import torch
from jaxtyping import Float
from omegaconf import OmegaConf
from torch import Tensor, nn

import threestudio
from threestudio.utils.base import Updateable
from threestudio.utils.ops import get_activation

_COMMON_KEYS = {"otype", "include_xyz"}
_GRID_KEYS = {
    "type",
    "n_levels",
    "n_features_per_level",
    "log2_hashmap_size",
    "base_resolution",
    "per_level_scale",
    "interpolation",
}
_ENCODING_KEYS = {
    "Grid": _GRID_KEYS,
    "HashGrid": _GRID_KEYS,
    "DenseGrid": _GRID_KEYS,
    "TiledGrid": _GRID_KEYS,
    "ProgressiveBandHashGrid": _GRID_KEYS | {"start_level", "start_step", "update_steps"},
    "ProgressiveBandFrequency": {"n_frequencies", "n_masking_step"},
    "Frequency": {"n_frequencies"},
    "SphericalHarmonics": {"degree"},
    "Identity": {"scale", "offset"},
}
_MLP_KEYS = {"otype", "activation", "output_activation", "n_neurons", "n_hidden_layers"}


class ProgressiveBandFrequency(nn.Module, Updateable):
    """sin and cos of 2^k x for k < n_frequencies; bands fade in over `n_masking_step` steps.

    Outputs are ordered by band, then sin before cos, then axis. Over step/n_masking_step band k
    follows (1 - cos(pi clip(n_frequencies step / n_masking_step - k, 0, 1))) / 2 (Park et al. 2021,
    "Nerfies", eq. 8). Without masking all bands count at once.
    """

    def __init__(self, in_channels: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.n_input_dims = in_channels
        self.n_frequencies = int(config["n_frequencies"])
        self.n_masking_step = config.get("n_masking_step", 0)
        self.n_output_dims = 2 * in_channels * self.n_frequencies
        self.bands: Tensor
        self.mask: Tensor
        self.register_buffer("bands", 2.0 ** torch.arange(self.n_frequencies), persistent=False)
        self.register_buffer("mask", torch.ones(self.n_frequencies), persistent=False)

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N F"]:
        angles = x[..., None, None, :] * self.bands[:, None, None]
        waves = torch.cat([angles.sin(), angles.cos()], dim=-2) * self.mask[:, None, None]
        return waves.flatten(-3)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        if self.n_masking_step <= 0:
            return
        progress = global_step / self.n_masking_step * self.n_frequencies
        bands = torch.arange(self.n_frequencies)
        ramp = (progress - bands).clamp(0, 1)
        self.mask.copy_((1.0 - torch.cos(math.pi * ramp)) / 2.0)


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


class ProgressiveBandHashGrid(nn.Module, Updateable):
    """A hash grid whose levels are switched on one after the other, coarse to fine.

    `start_level` levels count from the first update on, and one more every `update_steps` steps
    after `start_step`. Before the first update nothing does, as in threestudio.
    """

    def __init__(
        self, in_channels: int, config: Mapping[str, Any], dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.n_input_dims = in_channels
        grid = {**config, "otype": "Grid", "type": "Hash"}
        self.encoding = tcnn.Encoding(in_channels, grid, dtype=dtype)
        self.n_output_dims: int = self.encoding.n_output_dims
        self.n_level = int(config["n_levels"])
        self.n_features_per_level = int(config["n_features_per_level"])
        self.start_level = config["start_level"]
        self.start_step = config["start_step"]
        self.update_steps = config["update_steps"]
        self.current_level: int = self.start_level
        self.mask: Tensor
        self.register_buffer("mask", torch.zeros(self.n_output_dims), persistent=False)

    def forward(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N F"]:
        return self.encoding(x) * self.mask

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        steps_after_start = max(global_step - self.start_step, 0)
        level = min(self.start_level + steps_after_start // self.update_steps, self.n_level)
        if level > self.current_level:
            threestudio.debug(f"Hash grid: {level} of {self.n_level} levels are on.")
        self.current_level = level
        self.mask[: level * self.n_features_per_level] = 1.0


class CompositeEncoding(nn.Module, Updateable):
    """An encoding of points in [0, 1], with the points mapped to [-1, 1] in front if asked for."""

    def __init__(
        self,
        encoding: nn.Module,
        include_xyz: bool = False,
        xyz_scale: float = 2.0,
        xyz_offset: float = -1.0,
    ) -> None:
        super().__init__()
        self.encoding = encoding
        self.include_xyz, self.xyz_scale, self.xyz_offset = include_xyz, xyz_scale, xyz_offset
        self.n_input_dims: int = encoding.n_input_dims
        self.n_output_dims: int = encoding.n_output_dims + (self.n_input_dims if include_xyz else 0)

    def forward(self, x: Float[Tensor, "N D"], *args) -> Float[Tensor, "N F"]:
        encoded = self.encoding(x, *args)
        if not self.include_xyz:
            return encoded
        return torch.cat([x * self.xyz_scale + self.xyz_offset, encoded], dim=-1)


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


class NetworkWithInputEncoding(nn.Module, Updateable):
    """An encoding followed by a network."""

    def __init__(self, encoding: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.encoding, self.network = encoding, network

    def forward(self, x: Float[Tensor, "N Di"]) -> Float[Tensor, "N Do"]:
        return self.network(self.encoding(x))


def get_encoding(n_input_dims: int, config: Mapping[str, Any]) -> CompositeEncoding:
    """The encoding that `config.otype` names, for points in [0, 1].

    Raises:
        ValueError: for an otype that this host lacks, or a key that its otype does not have.
    """
    config = _plain(config)
    otype = config.get("otype")
    if otype not in _ENCODING_KEYS:
        raise ValueError(
            f"Encoding otype={otype!r} is not available: use one of {', '.join(_ENCODING_KEYS)}."
        )
    _check_keys("Encoding", config, _ENCODING_KEYS[otype] | _COMMON_KEYS)
    build = {
        "ProgressiveBandFrequency": ProgressiveBandFrequency,
        "ProgressiveBandHashGrid": ProgressiveBandHashGrid,
    }.get(otype, TCNNEncoding)
    return CompositeEncoding(
        build(n_input_dims, config), include_xyz=bool(config.get("include_xyz", False))
    )


def get_mlp(n_input_dims: int, n_output_dims: int, config: Mapping[str, Any]) -> VanillaMLP:
    """The network that `config.otype` names.

    Raises:
        ValueError: for an otype that this host lacks, or a key that the network does not have.
    """
    config = _plain(config)
    if config.get("otype") != "VanillaMLP":
        raise ValueError(
            f"Network otype={config.get('otype')!r} is not available in the standalone host: "
            "use otype: VanillaMLP, or threestudio with tiny-cuda-nn."
        )
    _check_keys("VanillaMLP", config, _MLP_KEYS)
    if str(config.get("activation", "ReLU")) != "ReLU":
        raise ValueError(
            f"VanillaMLP activation={config['activation']!r} is not available: use ReLU."
        )
    return VanillaMLP(n_input_dims, n_output_dims, config)


def create_network_with_input_encoding(
    n_input_dims: int,
    n_output_dims: int,
    encoding_config: Mapping[str, Any],
    network_config: Mapping[str, Any],
) -> NetworkWithInputEncoding:
    """An encoding of points in [0, 1] and a network that reads it."""
    encoding = get_encoding(n_input_dims, encoding_config)
    network = get_mlp(encoding.n_output_dims, n_output_dims, network_config)
    return NetworkWithInputEncoding(encoding, network)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    if OmegaConf.is_config(config):
        return OmegaConf.to_container(config, resolve=True)
    return dict(config)


def _check_keys(owner: str, config: dict[str, Any], known: set[str]) -> None:
    for key in config:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=2)
            hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
            raise ValueError(
                f"{owner} otype={config.get('otype')!r} has no key {key!r}: {hint}"
                f"known keys: {', '.join(sorted(known))}."
            )
