"""The grid encoding's values and derivatives in PyTorch, quick on a CPU: planes instead of rows.

What makes it quick:

- tensors are kept corner by corner, [2, ..., 2, n], so that every inner loop runs over points;
- features are gathered from one plane each and contracted by linear interpolation along one axis
  after the other, which needs no corner weights at all in the forward pass;
- points go through in chunks whose intermediate results stay in the cache.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tinycudann.grid_layout import HASH_PRIMES, GridLayout, GridLevel

_CPU_CHUNK = 2**14
_CUDA_CHUNK = 2**20
_EXACT_IN_SINGLE = 2**24  # integers below are exact in single precision


def encode(
    x: Float[Tensor, "N D"], params: Float[Tensor, "P"], layout: GridLayout
) -> Float[Tensor, "N F"]:
    """Interpolate every level multilinearly at the points; outputs level by level."""
    output = x.new_empty(x.shape[0], layout.n_output_dims)
    for table, rows, index, fraction in _visit(x, params, layout):
        for feature, plane in zip(table.features, table.planes, strict=True):
            output[rows, feature] = _contract(_gather(plane, index), fraction)
    return output


def param_gradient(
    grad_output: Float[Tensor, "N F"],
    x: Float[Tensor, "N D"],
    params: Float[Tensor, "P"],
    layout: GridLayout,
) -> Float[Tensor, "P"]:
    """The gradient for the parameters, of which only shape and type are looked at."""
    return _scatter(grad_output, x, params, layout, lambda pairs, _level, _rows: _outer(pairs))


def input_gradient(
    grad_output: Float[Tensor, "N F"],
    x: Float[Tensor, "N D"],
    params: Float[Tensor, "P"],
    layout: GridLayout,
) -> Float[Tensor, "N D"]:
    """The gradient for the points: sum_l s_l sum_f g_f d(interpolation) for each axis."""
    columns = grad_output.t().contiguous()
    grad_x = torch.zeros_like(x)
    for table, rows, index, fraction in _visit(x, params, layout):
        corners = _weighted_corners(table, index, columns[:, rows])
        for axis in range(layout.n_input_dims):
            slope = _contract(corners, fraction, (axis,))
            grad_x[rows, axis] += slope * table.level.scale
    return grad_x


def input_gradient_backward(
    cotangent: Float[Tensor, "N D"],
    grad_output: Float[Tensor, "N F"],
    x: Float[Tensor, "N D"],
    params: Float[Tensor, "P"],
    layout: GridLayout,
    needs: tuple[bool, bool, bool],
) -> tuple[
    Float[Tensor, "N F"] | None,
    Float[Tensor, "N D"] | None,
    Float[Tensor, "P"] | None,
]:
    """What <cotangent, input_gradient> has for gradients.

    Args:
        needs: whether those for grad_output, x and params are asked for.

    Returns:
        Those gradients; None may stand for one that is not asked for.
    """
    needs_grad_output, needs_x, needs_params = needs
    axes = range(layout.n_input_dims)
    directions = cotangent.t().contiguous()
    columns = grad_output.t().contiguous()

    grad_grad_output = torch.zeros_like(grad_output) if needs_grad_output else None
    grad_x = torch.zeros_like(x) if needs_x else None
    if needs_grad_output or needs_x:
        for table, rows, index, fraction in _visit(x, params, layout):
            direction = directions[:, rows] * table.level.scale
            if needs_grad_output:
                for feature, plane in zip(table.features, table.planes, strict=True):
                    corners = _gather(plane, index)
                    for axis in axes:
                        slope = _contract(corners, fraction, (axis,))
                        grad_grad_output[rows, feature] += slope * direction[axis]
            if needs_x:
                corners = _weighted_corners(table, index, columns[:, rows])
                for axis in axes:  # a multilinear function has only mixed second derivatives
                    for other in range(axis):
                        mixed = _contract(corners, fraction, (axis, other)) * table.level.scale
                        grad_x[rows, axis] += mixed * direction[other]
                        grad_x[rows, other] += mixed * direction[axis]

    grad_params = None
    if needs_params:

        def directional_weights(pairs, level, rows):
            """The derivative of the corner weights along the cotangent."""
            steps = directions[:, rows] * level.scale
            return sum(
                _outer([_step(steps[axis]) if a == axis else pairs[a] for a in axes])
                for axis in axes
            )

        grad_params = _scatter(grad_output, x, params, layout, directional_weights)
    return grad_grad_output, grad_x, grad_params


class _Table(NamedTuple):
    """One level's entries, one contiguous row a feature, and the output columns they go to."""

    level: GridLevel
    features: range
    planes: Float[Tensor, "features entries"]


def _visit(
    x: Tensor, params: Tensor, layout: GridLayout
) -> Iterator[tuple[_Table, slice, Tensor, Tensor]]:
    """Every level's table with every chunk of points: rows, corner indices and fractions."""
    inside = _inside(x)
    coordinates = x.t().contiguous()
    entries = params.view(-1, layout.n_features_per_level)
    for number, level in enumerate(layout.levels):
        planes = entries[level.offset : level.offset + level.n_entries].t()
        overhang = _overhang(level, layout.n_input_dims, inside)
        if overhang:
            planes = torch.cat([planes, planes[:, :overhang]], dim=1)
        first = number * layout.n_features_per_level
        features = range(first, first + layout.n_features_per_level)
        table = _Table(level, features, planes.contiguous())
        for rows in _chunks(x.shape[0], x.device):
            index, fraction = _locate(level, coordinates[:, rows], planes.shape[1])
            yield table, rows, index, fraction


def _overhang(level: GridLevel, n_dims: int, inside: bool) -> int:
    """How many entries past its table a dense level asks for, at points of the unit box; else 0."""
    if level.hashed or not inside:
        return 0
    last = sum(level.resolution ** (axis + 1) for axis in range(n_dims))
    overhang = last + 1 - level.n_entries
    return overhang if 0 < overhang <= level.n_entries else 0


def _inside(x: Float[Tensor, "N D"]) -> bool:
    """Whether all points are known to lie in the unit box; on a GPU it is not worth waiting for."""
    if x.is_cuda or not x.numel():
        return False
    low, high = torch.aminmax(x)
    return bool(low >= 0 and high <= 1)


def _chunks(n_points: int, device: torch.device) -> list[slice]:
    size = _CPU_CHUNK if device.type == "cpu" else _CUDA_CHUNK
    return [slice(start, start + size) for start in range(0, n_points, size)]


def _locate(
    level: GridLevel, points: Float[Tensor, "D n"], table_size: int
) -> tuple[Tensor, Float[Tensor, "D n"]]:
    """Where the corners of each point's cell are stored, and the point's position in the cell.

    Args:
        table_size: entries of the table looked into, overhang included.

    Returns:
        Indices [2, ..., 2, n], the axis of the last coordinate first; fractions in [0, 1).
    """
    position = level.position(points)
    cell = position.floor()
    fraction = position.sub_(cell)
    n_dims = points.shape[0]
    pair = torch.arange(2, device=points.device)[:, None]
    if level.hashed:
        vertex = cell.long()
        index = vertex[0] + pair
        for axis in range(1, n_dims):
            term = (vertex[axis] + pair).mul_(HASH_PRIMES[axis])
            index = term[_leading(axis)] ^ index[None]
    else:
        if table_size >= _EXACT_IN_SINGLE:
            cell = cell.long()
        base, offsets = cell[0], pair
        for axis in range(1, n_dims):
            stride = level.resolution**axis
            base = torch.add(base, cell[axis], alpha=stride)
            offsets = (pair * stride)[_leading(axis)] + offsets[None]
        index = base.long() + offsets
    if table_size == level.n_entries:  # no overhang: wrap around, unsigned as in 32 bit
        if level.n_entries & (level.n_entries - 1) == 0:
            index.bitwise_and_(level.n_entries - 1)
        else:
            index.bitwise_and_(0xFFFFFFFF).remainder_(level.n_entries)
    return index, fraction


def _leading(n_middle: int) -> tuple:
    """Index that inserts `n_middle` axes between the two axes of a matrix."""
    return (slice(None), *([None] * n_middle))


def _gather(plane: Float[Tensor, "entries"], index: Tensor) -> Tensor:
    return plane.index_select(0, index.view(-1)).view(index.shape)


def _weighted_corners(table: _Table, index: Tensor, columns: Float[Tensor, "F n"]) -> Tensor:
    """sum_f g_f T_f at each corner: what every derivative for the points is a contraction of."""
    total = None
    for feature, plane in zip(table.features, table.planes, strict=True):
        corners = _gather(plane, index).mul_(columns[feature])
        total = corners if total is None else total.add_(corners)
    return total


def _contract(
    corners: Tensor, fraction: Float[Tensor, "D n"], differentiate: tuple[int, ...] = ()
) -> Float[Tensor, "n"]:
    """Interpolate corner values along each axis, or take the difference along those named."""
    for axis in reversed(range(fraction.shape[0])):
        low, high = corners[0], corners[1]
        corners = high - low if axis in differentiate else torch.lerp(low, high, fraction[axis])
    return corners


def _step(value: Float[Tensor, "n"]) -> Float[Tensor, "2 n"]:
    """The derivative of the pair of weights (1 - p, p) in direction `value`."""
    return torch.stack([-value, value])


def _outer(factors: list[Float[Tensor, "2 n"]]) -> Tensor:
    """Corner weights [2, ..., 2, n] from one pair of weights an axis, last axis first."""
    weights = factors[0]
    for axis, factor in enumerate(factors[1:], start=1):
        weights = factor[_leading(axis)] * weights[None]
    return weights


def _scatter(
    grad_output: Tensor,
    x: Tensor,
    params: Tensor,
    layout: GridLayout,
    corner_weights: Callable[[list[Tensor], GridLevel, slice], Tensor],
) -> Tensor:
    """Add grad_output times the corner weights to the entries that each point touches."""
    inside = _inside(x)
    coordinates = x.t().contiguous()
    columns = grad_output.t().contiguous()
    grad_params = torch.empty_like(params)
    grad_entries = grad_params.view(-1, layout.n_features_per_level)
    for number, level in enumerate(layout.levels):
        first_feature = number * layout.n_features_per_level
        overhang = _overhang(level, layout.n_input_dims, inside)
        planes = params.new_zeros(layout.n_features_per_level, level.n_entries + overhang)
        for rows in _chunks(x.shape[0], x.device):
            index, fraction = _locate(level, coordinates[:, rows], planes.shape[1])
            weights = corner_weights(list(torch.stack([1 - fraction, fraction], 1)), level, rows)
            for feature, plane in enumerate(planes, start=first_feature):
                plane.scatter_add_(0, index.view(-1), (weights * columns[feature, rows]).view(-1))
        planes[:, :overhang] += planes[:, level.n_entries :]
        grad_entries[level.offset : level.offset + level.n_entries] = planes[
            :, : level.n_entries
        ].t()
    return grad_params
