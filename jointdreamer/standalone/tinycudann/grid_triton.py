"""The grid encoding's values and derivatives as Triton kernels: one launch for all levels.

The functions are those of `grid_torch`, which is the specification, for float32 tensors on one
device. Nothing waits for the GPU, except that the first call for a layout copies a few numbers of
each level to the device.

Every kernel's tensors are [BLOCK, 1] (a point a row) or [BLOCK, F] (with a level's features). No
kernel may have an argument called `params`: Triton's launcher has a variable of that name.
"""

from functools import cache

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from tinycudann.grid_layout import GridLayout

_BLOCK = 128  # points; each of 4 warps' threads has one
_TOGETHER = 4  # levels of a program: their entries fit into the cache, their features fill a sector


def encode(x: Tensor, params: Tensor, layout: GridLayout) -> Float[Tensor, "N F"]:
    output = x.new_empty(x.shape[0], layout.n_output_dims)
    _launch(_encode_kernel, x, layout, x, params, output, TRANSPOSED=False)
    return output


def param_gradient(
    grad_output: Tensor, x: Tensor, params: Tensor, layout: GridLayout
) -> Float[Tensor, "P"]:
    grad_params = x.new_zeros(params.shape)
    _launch(_encode_kernel, x, layout, x, grad_params, grad_output, TRANSPOSED=True)
    return grad_params


def param_gradients(
    grad_output: Tensor,
    cotangent: Tensor,
    grad_input: Tensor,
    x: Tensor,
    params: Tensor,
    layout: GridLayout,
) -> Float[Tensor, "P"]:
    """`param_gradient`, plus what `input_gradient_backward` has for the parameters.

    The two add to the same entries, and adding is what takes their time.

    Args:
        cotangent, grad_input: of `input_gradient`, whose `grad_output` is `grad_input`.
    """
    grad_params = x.new_zeros(params.shape)
    _launch(_param_gradients_kernel, x, layout, cotangent, grad_output, grad_input, x, grad_params)
    return grad_params


def input_gradient(
    grad_output: Tensor, x: Tensor, params: Tensor, layout: GridLayout
) -> Float[Tensor, "N 3"]:
    grad_x = x.new_empty(_groups(layout), *x.shape)
    _launch(_input_gradient_kernel, x, layout, grad_output, x, params, grad_x)
    return grad_x.sum(dim=0)


def input_gradient_backward(
    cotangent: Tensor,
    grad_output: Tensor,
    x: Tensor,
    params: Tensor,
    layout: GridLayout,
    with_x: bool = True,
    with_params: bool = True,
) -> tuple[Float[Tensor, "N F"], Float[Tensor, "N 3"] | None, Float[Tensor, "P"] | None]:
    grad_grad_output = x.new_empty(x.shape[0], layout.n_output_dims)
    grad_x = x.new_empty(_groups(layout), *(x.shape if with_x else ()))
    grad_params = x.new_zeros(params.shape if with_params else 1)
    given, wanted = (cotangent, grad_output, x, params), (grad_grad_output, grad_x, grad_params)
    flags = {"WITH_X": with_x, "WITH_PARAMS": with_params}
    _launch(_input_gradient_backward_kernel, x, layout, *given, *wanted, **flags)
    grad_x = grad_x.sum(dim=0) if with_x else None
    return grad_grad_output, grad_x, grad_params if with_params else None


def _groups(layout: GridLayout) -> int:
    return triton.cdiv(len(layout.levels), _TOGETHER)


def _launch(kernel, x: Tensor, layout: GridLayout, *tensors, **flags) -> None:
    """Start a kernel for blocks of points and for groups of levels.

    Blocks of one group start one after the other, so that its entries stay in the cache.
    """
    blocks = max(1, triton.cdiv(x.shape[0], _BLOCK))  # without points too, to see whether it works
    n_levels = len(layout.levels)  # no run-time number: one variant for each layout is little
    with torch.cuda.device_of(x):
        kernel[(blocks, _groups(layout))](
            *(tensor.contiguous() for tensor in tensors),
            *_level_tables(layout, x.device),
            x.shape[0],
            LEVELS=n_levels,
            TOGETHER=_TOGETHER,
            F=layout.n_features_per_level,
            BLOCK=_BLOCK,
            num_warps=4,
            num_stages=1,
            **flags,
        )


@cache
def _level_tables(layout: GridLayout, device: torch.device) -> tuple[Tensor, Tensor]:
    """Scales [L]; and integers [L 5]: offset, number of entries, hashed, strides of axes 1 and 2.

    All fit into unsigned 32 bit, in which the kernels calculate.
    """
    integers = [
        [level.offset, level.n_entries, int(level.hashed), *(s % 2**32 for s in level.strides[1:])]
        for level in layout.levels
    ]
    scales = torch.tensor([level.scale for level in layout.levels], dtype=torch.float32)
    return scales.to(device), torch.tensor(integers, dtype=torch.int64).to(device)


@triton.jit
def _coordinates(values, point, inside):
    """The three numbers of each point, [BLOCK, 1] each."""
    row = values + point * 3
    x0 = tl.load(row, mask=inside, other=0.0)
    x1 = tl.load(row + 1, mask=inside, other=0.0)
    x2 = tl.load(row + 2, mask=inside, other=0.0)
    return x0, x1, x2


@triton.jit
def _cell(coordinate, scale):
    """The low vertex along an axis, as unsigned integer, and the position between it and the next.

    As in `GridLevel.position`, x s + 0.5 is rounded once.
    """
    position = tl.fma(coordinate, scale, 0.5)
    low = tl.floor(position)
    return low.to(tl.int64).to(tl.uint32), position - low


@triton.jit
def _level(scales, integers, level):
    """One level's numbers, from `_level_tables`."""
    scale = tl.load(scales + level)
    row = integers + level * 5
    offset = tl.load(row)
    n_entries = tl.load(row + 1).to(tl.uint32)
    hashed = tl.load(row + 2) != 0
    stride1 = tl.load(row + 3).to(tl.uint32)
    stride2 = tl.load(row + 4).to(tl.uint32)
    return scale, offset, n_entries, hashed, stride1, stride2


@triton.jit
def _corner(
    low0, low1, low2, offset, n_entries, hashed, stride1, stride2,
    corner: tl.constexpr, F: tl.constexpr,
):  # fmt: skip
    """Where a corner's features start among the parameters; bit d of `corner` is its side."""
    index0 = low0 + (corner & 1)
    index1 = (low1 + ((corner >> 1) & 1)) * stride1
    index2 = (low2 + ((corner >> 2) & 1)) * stride2
    if hashed:  # into a power of two
        index = (index0 ^ index1 ^ index2) & (n_entries - 1)
    else:
        index = (index0 + index1 + index2) % n_entries
    return (offset + index.to(tl.int64)) * F


@triton.jit
def _side(fraction, corner: tl.constexpr, axis: tl.constexpr):
    """The weight of the corner's side along an axis."""
    if (corner >> axis) & 1:
        weight = fraction
    else:
        weight = 1.0 - fraction
    return weight


@triton.jit
def _signed(value, corner: tl.constexpr, axis: tl.constexpr):
    """`value` times the derivative of the weight of the corner's side along an axis."""
    if (corner >> axis) & 1:
        signed = value
    else:
        signed = -value
    return signed


@triton.jit(do_not_specialize=["n_points"])
def _encode_kernel(
    x, entries, output, scales, integers, n_points,
    LEVELS: tl.constexpr, TOGETHER: tl.constexpr, F: tl.constexpr, BLOCK: tl.constexpr,
    TRANSPOSED: tl.constexpr,
):  # fmt: skip
    """Interpolates the entries; TRANSPOSED adds up the entries' gradient from the output's."""
    point = (tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK))[:, None]
    feature = tl.arange(0, F)[None, :]
    inside = point < n_points

    x0, x1, x2 = _coordinates(x, point, inside)
    first = tl.program_id(1) * TOGETHER
    for level in range(first, tl.minimum(first + TOGETHER, LEVELS)):
        scale, offset, n_entries, hashed, stride1, stride2 = _level(scales, integers, level)
        low0, fraction0 = _cell(x0, scale)
        low1, fraction1 = _cell(x1, scale)
        low2, fraction2 = _cell(x2, scale)
        column = output + (point * LEVELS + level) * F + feature
        if TRANSPOSED:
            value = tl.load(column, mask=inside, other=0.0)
        else:
            value = tl.zeros([BLOCK, F], tl.float32)
        for corner in tl.static_range(8):
            start = _corner(
                low0, low1, low2, offset, n_entries, hashed, stride1, stride2, corner, F
            )  # fmt: skip
            weight = _side(fraction0, corner, 0) * _side(fraction1, corner, 1)
            weight = weight * _side(fraction2, corner, 2)
            if TRANSPOSED:
                tl.atomic_add(entries + start + feature, weight * value, mask=inside, sem="relaxed")
            else:
                value += weight * tl.load(entries + start + feature, mask=inside, other=0.0)
        if not TRANSPOSED:
            tl.store(column, value, mask=inside)


@triton.jit(do_not_specialize=["n_points"])
def _input_gradient_kernel(
    grad_output, x, entries, grad_x, scales, integers, n_points,
    LEVELS: tl.constexpr, TOGETHER: tl.constexpr, F: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    point = (tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK))[:, None]
    feature = tl.arange(0, F)[None, :]
    inside = point < n_points

    x0, x1, x2 = _coordinates(x, point, inside)
    total0 = tl.zeros([BLOCK, F], tl.float32)
    total1 = tl.zeros([BLOCK, F], tl.float32)
    total2 = tl.zeros([BLOCK, F], tl.float32)
    first = tl.program_id(1) * TOGETHER
    for level in range(first, tl.minimum(first + TOGETHER, LEVELS)):
        scale, offset, n_entries, hashed, stride1, stride2 = _level(scales, integers, level)
        low0, fraction0 = _cell(x0, scale)
        low1, fraction1 = _cell(x1, scale)
        low2, fraction2 = _cell(x2, scale)
        slope0 = tl.zeros([BLOCK, F], tl.float32)
        slope1 = tl.zeros([BLOCK, F], tl.float32)
        slope2 = tl.zeros([BLOCK, F], tl.float32)
        for corner in tl.static_range(8):
            start = _corner(
                low0, low1, low2, offset, n_entries, hashed, stride1, stride2, corner, F
            )  # fmt: skip
            value = tl.load(entries + start + feature, mask=inside, other=0.0)
            side0 = _side(fraction0, corner, 0)
            side1 = _side(fraction1, corner, 1)
            side2 = _side(fraction2, corner, 2)
            slope0 += _signed(side1 * side2, corner, 0) * value
            slope1 += _signed(side0 * side2, corner, 1) * value
            slope2 += _signed(side0 * side1, corner, 2) * value
        column = (point * LEVELS + level) * F + feature
        grad = tl.load(grad_output + column, mask=inside, other=0.0) * scale
        total0 += slope0 * grad
        total1 += slope1 * grad
        total2 += slope2 * grad
    row = tl.program_id(1).to(tl.int64) * n_points + point
    _store_point(grad_x, total0, total1, total2, row, inside)


@triton.jit(do_not_specialize=["n_points"])
def _input_gradient_backward_kernel(
    cotangent, grad_output, x, entries, grad_grad_output, grad_x, grad_params,
    scales, integers, n_points,
    LEVELS: tl.constexpr, TOGETHER: tl.constexpr, F: tl.constexpr, BLOCK: tl.constexpr,
    WITH_X: tl.constexpr, WITH_PARAMS: tl.constexpr,
):  # fmt: skip
    point = (tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK))[:, None]
    feature = tl.arange(0, F)[None, :]
    inside = point < n_points

    x0, x1, x2 = _coordinates(x, point, inside)
    direction0, direction1, direction2 = _coordinates(cotangent, point, inside)
    total0 = tl.zeros([BLOCK, F], tl.float32)
    total1 = tl.zeros([BLOCK, F], tl.float32)
    total2 = tl.zeros([BLOCK, F], tl.float32)
    first = tl.program_id(1) * TOGETHER
    for level in range(first, tl.minimum(first + TOGETHER, LEVELS)):
        scale, offset, n_entries, hashed, stride1, stride2 = _level(scales, integers, level)
        low0, fraction0 = _cell(x0, scale)
        low1, fraction1 = _cell(x1, scale)
        low2, fraction2 = _cell(x2, scale)
        step0 = direction0 * scale
        step1 = direction1 * scale
        step2 = direction2 * scale
        column = (point * LEVELS + level) * F + feature
        grad = tl.load(grad_output + column, mask=inside, other=0.0)
        slope = tl.zeros([BLOCK, F], tl.float32)  # along the cotangent
        curve0 = tl.zeros([BLOCK, F], tl.float32)  # and its derivatives: mixed ones only
        curve1 = tl.zeros([BLOCK, F], tl.float32)
        curve2 = tl.zeros([BLOCK, F], tl.float32)
        for corner in tl.static_range(8):
            start = _corner(
                low0, low1, low2, offset, n_entries, hashed, stride1, stride2, corner, F
            )  # fmt: skip
            value = tl.load(entries + start + feature, mask=inside, other=0.0)
            side0 = _side(fraction0, corner, 0)
            side1 = _side(fraction1, corner, 1)
            side2 = _side(fraction2, corner, 2)
            change0 = _signed(step0, corner, 0)
            change1 = _signed(step1, corner, 1)
            change2 = _signed(step2, corner, 2)
            along12 = change1 * side2 + side1 * change2
            along02 = change0 * side2 + side0 * change2
            along01 = change0 * side1 + side0 * change1
            weight = change0 * (side1 * side2) + side0 * along12
            slope += weight * value
            if WITH_X:
                curve0 += _signed(along12, corner, 0) * value
                curve1 += _signed(along02, corner, 1) * value
                curve2 += _signed(along01, corner, 2) * value
            if WITH_PARAMS:
                target = grad_params + start + feature
                tl.atomic_add(target, weight * grad, mask=inside, sem="relaxed")
        tl.store(grad_grad_output + column, slope, mask=inside)
        scaled = grad * scale
        total0 += curve0 * scaled
        total1 += curve1 * scaled
        total2 += curve2 * scaled
    if WITH_X:
        row = tl.program_id(1).to(tl.int64) * n_points + point
        _store_point(grad_x, total0, total1, total2, row, inside)


@triton.jit(do_not_specialize=["n_points"])
def _param_gradients_kernel(
    cotangent, grad_output, grad_input, x, grad_params, scales, integers, n_points,
    LEVELS: tl.constexpr, TOGETHER: tl.constexpr, F: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    point = (tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK))[:, None]
    feature = tl.arange(0, F)[None, :]
    inside = point < n_points

    x0, x1, x2 = _coordinates(x, point, inside)
    direction0, direction1, direction2 = _coordinates(cotangent, point, inside)
    first = tl.program_id(1) * TOGETHER
    for level in range(first, tl.minimum(first + TOGETHER, LEVELS)):
        scale, offset, n_entries, hashed, stride1, stride2 = _level(scales, integers, level)
        low0, fraction0 = _cell(x0, scale)
        low1, fraction1 = _cell(x1, scale)
        low2, fraction2 = _cell(x2, scale)
        step0 = direction0 * scale
        step1 = direction1 * scale
        step2 = direction2 * scale
        column = (point * LEVELS + level) * F + feature
        value = tl.load(grad_output + column, mask=inside, other=0.0)
        slope = tl.load(grad_input + column, mask=inside, other=0.0)
        for corner in tl.static_range(8):
            start = _corner(
                low0, low1, low2, offset, n_entries, hashed, stride1, stride2, corner, F
            )  # fmt: skip
            side0 = _side(fraction0, corner, 0)
            side1 = _side(fraction1, corner, 1)
            side2 = _side(fraction2, corner, 2)
            along01 = _signed(step0, corner, 0) * side1 + side0 * _signed(step1, corner, 1)
            along = along01 * side2 + side0 * side1 * _signed(step2, corner, 2)
            change = side0 * side1 * side2 * value + along * slope
            tl.atomic_add(grad_params + start + feature, change, mask=inside, sem="relaxed")


@triton.jit
def _store_point(target, value0, value1, value2, point, inside):
    """Sum each axis's [BLOCK, F] over the features and write the points' rows."""
    row = target + point * 3
    tl.store(row, tl.sum(value0, axis=1, keep_dims=True), mask=inside)
    tl.store(row + 1, tl.sum(value1, axis=1, keep_dims=True), mask=inside)
    tl.store(row + 2, tl.sum(value2, axis=1, keep_dims=True), mask=inside)
