"""The grid encoding written for reading: the specification that the fast path is tested against."""

from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from tinycudann.grid_layout import HASH_PRIMES, GridLayout, GridLevel


def _entry(level: GridLevel, vertex: list[Tensor]) -> Tensor:
    """The entry of the level's table that holds each vertex, `vertex` being D tensors [N]."""
    index = torch.zeros_like(vertex[0])
    if level.hashed:
        for coordinate, prime in zip(vertex, HASH_PRIMES, strict=False):
            index = index ^ (coordinate * prime)
    else:
        for power, coordinate in enumerate(vertex):
            index = index + coordinate * level.resolution**power
    return (index & 0xFFFFFFFF) % level.n_entries


def grid_encode_plain(
    x: Float[Tensor, "N D"], params: Float[Tensor, "P"], layout: GridLayout
) -> Float[Tensor, "N F"]:
    """Interpolate every level multilinearly at the points; outputs level by level.

    Differentiable any number of times, in any precision, on any device.

    Args:
        x: points in [0, 1]^D.
        params: the parameter vector, `layout.n_params` numbers.
    """
    table = params.view(-1, layout.n_features_per_level)
    outputs = []
    for level in layout.on(x.device).levels:
        position = level.position(x)
        cell = position.detach().floor()
        fraction = position - cell
        low_vertex = cell.long()
        value = torch.zeros(
            x.shape[0], layout.n_features_per_level, dtype=params.dtype, device=x.device
        )
        for corner in product((0, 1), repeat=layout.n_input_dims):
            weight = torch.ones_like(fraction[:, 0])
            vertex = []
            for axis, upper in enumerate(corner):
                weight = weight * (fraction[:, axis] if upper else 1 - fraction[:, axis])
                vertex.append(low_vertex[:, axis] + upper)
            value = value + weight[:, None] * table[level.offset + _entry(level, vertex)]
        outputs.append(value)
    return torch.cat(outputs, dim=-1)
