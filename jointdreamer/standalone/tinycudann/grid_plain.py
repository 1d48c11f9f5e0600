"""The grid encoding written for reading: the specification that the fast paths are tested against.

Differentiable any number of times, in any precision, on any device.
"""

from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from tinycudann.grid_layout import HASH_PRIMES, GridLayout, GridLevel


def _entry(level: GridLevel, vertex: list[Tensor]) -> Tensor:
    """The entry of the level's table that holds each vertex, three tensors [N]."""
    x, y, z = vertex
    if level.hashed:
        index = x ^ (y * HASH_PRIMES[1]) ^ (z * HASH_PRIMES[2])
    else:
        index = x + y * level.resolution + z * level.resolution**2
    return (index & 0xFFFFFFFF) % level.n_entries


def grid_encode_plain(
    x: Float[Tensor, "N 3"], params: Float[Tensor, "P"], layout: GridLayout
) -> Float[Tensor, "N F"]:
    """Interpolate every level multilinearly at points in [0, 1]^3; outputs level by level."""
    table = params.view(-1, layout.n_features_per_level)
    outputs = []
    for level in layout.on(x.device).levels:
        position = level.position(x)
        cell = position.detach().floor()
        fraction = position - cell
        low_vertex = cell.long()
        value = table.new_zeros(x.shape[0], layout.n_features_per_level)
        for corner in product((0, 1), repeat=3):
            weight = torch.ones_like(fraction[:, 0])
            vertex = []
            for axis, upper in enumerate(corner):
                weight = weight * (fraction[:, axis] if upper else 1 - fraction[:, axis])
                vertex.append(low_vertex[:, axis] + upper)
            value = value + weight[:, None] * table[level.offset + _entry(level, vertex)]
        outputs.append(value)
    return torch.cat(outputs, dim=-1)
