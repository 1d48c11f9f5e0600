"""The grid encoding's values and derivatives in PyTorch, quick on a CPU: planes instead of rows.

What makes it quick:

- tensors are kept corner by corner, [2 2 2 n] with the last axis first, so that every inner loop
  runs over points;
- features are gathered from one plane each and contracted by linear interpolation along one axis
  after the other, which needs no corner weights at all in the forward pass;
- points go through in chunks whose intermediate results stay in the cache.
"""

from collections.abc import Iterator
from functools import reduce
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tinycudann.grid_layout import GridLayout, GridLevel

_CPU_CHUNK = 2**14
_CUDA_CHUNK = 2**20
_EXACT_IN_SINGLE = 2**24  # integers below are exact in single precision
_AXES = range(3)


def encode(
    x: Float[Tensor, "N 3"], params: Float[Tensor, "P"], layout: GridLayout
) -> Float[Tensor, "N F"]:
    """Interpolate every level multilinearly at the points; outputs level by level."""
    output = x.new_empty(x.shape[0], layout.n_output_dims)
    for cells in _visit(x, layout, params):
        for feature, corners in zip(cells.features, _gather(cells), strict=True):
            output[cells.rows, feature] = _contract(corners, cells.fraction)
    return output


def param_gradient(
    grad_output: Float[Tensor, "N F"],
    x: Float[Tensor, "N 3"],
    params: Float[Tensor, "P"],
    layout: GridLayout,
) -> Float[Tensor, "P"]:
    """The gradient for the parameters, of which only shape and type are looked at."""
    columns = grad_output.t().contiguous()
    grad_params = torch.empty_like(params)
    for cells in _visit(x, layout, grad_params=grad_params):
        _scatter(cells, _outer(_weights(cells)), columns)
    return grad_params


def input_gradient(
    grad_output: Float[Tensor, "N F"],
    x: Float[Tensor, "N 3"],
    params: Float[Tensor, "P"],
    layout: GridLayout,
) -> Float[Tensor, "N 3"]:
    """The gradient for the points: sum_l s_l sum_f g_f d(interpolation) for each axis."""
    columns = grad_output.t().contiguous()
    grad_x = torch.zeros_like(x)
    for cells in _visit(x, layout, params):
        corners = _weighted_corners(cells, columns)
        for axis in _AXES:
            grad_x[cells.rows, axis] += _contract(corners, cells.fraction, axis) * cells.scale
    return grad_x


def input_gradient_backward(
    cotangent: Float[Tensor, "N 3"],
    grad_output: Float[Tensor, "N F"],
    x: Float[Tensor, "N 3"],
    params: Float[Tensor, "P"],
    layout: GridLayout,
    with_x: bool = True,
) -> tuple[Float[Tensor, "N F"], Float[Tensor, "N 3"] | None, Float[Tensor, "P"]]:
    """The gradients of <cotangent, input_gradient> for grad_output, x (if `with_x`) and params."""
    columns = grad_output.t().contiguous()
    directions = cotangent.t().contiguous()
    grad_params = torch.empty_like(params)
    grad_grad_output = torch.zeros_like(grad_output)
    grad_x = torch.zeros_like(x)
    for cells in _visit(x, layout, params, grad_params):
        rows, fraction = cells.rows, cells.fraction
        step = directions[:, rows] * cells.scale
        for feature, corners in zip(cells.features, _gather(cells), strict=True):
            for axis in _AXES:
                slope = _contract(corners, fraction, axis)
                grad_grad_output[rows, feature] += slope * step[axis]

        corners = _weighted_corners(cells, columns) if with_x else None
        for axis in (
            _AXES if with_x else ()
        ):  # a multilinear function has only mixed second derivatives
            for other in range(axis):
                mixed = _contract(corners, fraction, axis, other) * cells.scale
                grad_x[rows, axis] += mixed * step[other]
                grad_x[rows, other] += mixed * step[axis]

        weights, changes = _weights(cells), torch.stack([-step, step], dim=1)
        along = [_outer([*weights[:a], changes[a], *weights[a + 1 :]]) for a in _AXES]
        _scatter(cells, along[0].add_(along[1]).add_(along[2]), columns)
    return grad_grad_output, grad_x if with_x else None, grad_params


class _Cells(NamedTuple):
    """Where some of the points lie in one level."""

    rows: slice  # of the points
    features: range  # columns of the output
    scale: float
    planes: Float[Tensor, "F entries"] | None  # one contiguous row a feature
    grad_planes: Float[Tensor, "F entries"] | None
    index: Int[Tensor, "2 2 2 n"]  # the corners' entries
    fraction: Float[Tensor, "3 n"]  # position in the cell, in [0, 1)


def _visit(
    x: Float[Tensor, "N 3"],
    layout: GridLayout,
    params: Float[Tensor, "P"] | None = None,
    grad_params: Float[Tensor, "P"] | None = None,
) -> Iterator[_Cells]:
    """Every level with every chunk of points; what is added to `grad_planes` fills `grad_params`.

    Where all points lie in the unit box, a dense level's planes hold the entries that its outermost
    cells ask for past its end, and no index has to wrap around.
    """
    points = x.t().contiguous()
    inside = not x.is_cuda and x.numel() > 0 and bool((x.amin() >= 0) & (x.amax() <= 1))
    size = _CPU_CHUNK if x.device.type == "cpu" else _CUDA_CHUNK
    n_features = layout.n_features_per_level
    for number, level in enumerate(layout.levels):
        features = range(number * n_features, (number + 1) * n_features)
        entries, n_entries = slice(level.offset, level.offset + level.n_entries), level.n_entries
        overhang = sum(level.resolution**power for power in range(4)) - n_entries
        overhang = overhang if inside and not level.hashed and 0 < overhang <= n_entries else 0
        planes = grad_planes = None
        if params is not None:
            planes = params.view(-1, n_features)[entries].t()
            planes = (
                torch.cat([planes, planes[:, :overhang]], dim=1)
                if overhang
                else planes.contiguous()
            )
        if grad_params is not None:
            grad_planes = grad_params.new_zeros(n_features, n_entries + overhang)
        for start in range(0, x.shape[0], size):
            rows = slice(start, start + size)
            located = _locate(level, points[:, rows], wrap=overhang == 0)
            yield _Cells(rows, features, level.scale, planes, grad_planes, *located)
        if grad_params is not None:
            grad_planes[:, :overhang] += grad_planes[:, n_entries:]
            grad_params.view(-1, n_features)[entries] = grad_planes[:, :n_entries].t()


def _locate(
    level: GridLevel, points: Float[Tensor, "3 n"], wrap: bool
) -> tuple[Int[Tensor, "2 2 2 n"], Float[Tensor, "3 n"]]:
    """Index and fraction, see `_Cells`."""
    position = level.position(points)
    cell = position.floor()
    pair = torch.arange(2, device=points.device)[:, None]
    _, stride_y, stride_z = level.strides
    if level.hashed:
        low = cell.long()
        index = (low[1] + pair).mul_(stride_y)[:, None] ^ (low[0] + pair)
        index = (low[2] + pair).mul_(stride_z)[:, None, None] ^ index
    else:
        low = cell if level.n_entries < _EXACT_IN_SINGLE else cell.long()
        base = (low[0] + low[1] * stride_y + low[2] * stride_z).long()
        index = base + ((pair * stride_z)[:, None, None] + (pair * stride_y)[:, None] + pair)
    if wrap and level.n_entries & (level.n_entries - 1) == 0:
        index.bitwise_and_(level.n_entries - 1)
    elif wrap:
        index.bitwise_and_(0xFFFFFFFF).remainder_(level.n_entries)
    return index, position.sub_(cell)


def _gather(cells: _Cells) -> Iterator[Float[Tensor, "2 2 2 n"]]:
    """Each feature at the corners."""
    for plane in cells.planes:
        yield plane.index_select(0, cells.index.view(-1)).view(cells.index.shape)


def _weighted_corners(cells: _Cells, columns: Float[Tensor, "F N"]) -> Float[Tensor, "2 2 2 n"]:
    """sum_f g_f T_f at each corner: what every derivative for the points is a contraction of."""
    corners = zip(cells.features, _gather(cells), strict=True)
    products = (values.mul_(columns[feature, cells.rows]) for feature, values in corners)
    return reduce(Tensor.add_, products)


def _contract(
    corners: Float[Tensor, "2 2 2 n"], fraction: Float[Tensor, "3 n"], *differentiate: int
) -> Float[Tensor, "n"]:
    """Interpolate corner values along each axis, or take the difference along those named."""
    for axis in reversed(_AXES):
        low, high = corners[0], corners[1]
        corners = high - low if axis in differentiate else torch.lerp(low, high, fraction[axis])
    return corners


def _weights(cells: _Cells) -> list[Float[Tensor, "2 n"]]:
    """The weights of a cell's two sides along each axis."""
    return list(torch.stack([1 - cells.fraction, cells.fraction], dim=1))


def _outer(factors: list[Float[Tensor, "2 n"]]) -> Float[Tensor, "2 2 2 n"]:
    x, y, z = factors
    return z[:, None, None] * (y[:, None] * x)


def _scatter(
    cells: _Cells, weights: Float[Tensor, "2 2 2 n"], columns: Float[Tensor, "F N"]
) -> None:
    """Add each point's columns times its corners' weights to the entries that it touches."""
    for feature, plane in zip(cells.features, cells.grad_planes, strict=True):
        values = weights * columns[feature, cells.rows]
        plane.scatter_add_(0, cells.index.view(-1), values.view(-1))
