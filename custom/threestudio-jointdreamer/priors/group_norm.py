"""GroupNorm and SiLU in one pass over the activations, and their gradient, as Triton kernels.

Eager PyTorch reads and writes the activations of a VAE at 512 px five times for `silu(norm(x))` and
eight times for its gradient; most of what a frozen VAE costs beside its convolutions. Here it is
twice and once, and five times. Activations lie channels last, as cuDNN's convolutions want them.

With x̂ = (x + e − μ) r for a group's mean μ and r = 1/√(variance + ε), and u = x̂ γ + β:

    y  = u σ(u)
    dx = r (d − ⟨d⟩ − x̂ ⟨d x̂⟩),    d = dy σ(u) (1 + u (1 − σ(u))) γ,

with means ⟨·⟩ over the group. Sums are taken in single precision in a fixed order.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

try:
    import triton
    import triton.language as tl
except ImportError:  # PyTorch serves, as on a CPU
    triton = None

CHANNELS, ROWS = 64, 64  # of a tile
MOST_PARTS = 64  # of an image's pixels, summed by programs of their own

Tables = Float[Tensor, "2 B C"]


def norm_silu_plain(
    x: Float[Tensor, "B C H W"], shift: Float[Tensor, "b C"] | None, norm: nn.GroupNorm
) -> Float[Tensor, "B C H W"]:
    """silu(norm(x + shift)), in PyTorch: the specification."""
    shifted = x if shift is None else x + shift[:, :, None, None]
    return F.silu(F.group_norm(shifted, norm.num_groups, norm.weight, norm.bias, norm.eps))


def norm_silu_backward_plain(
    grad: Float[Tensor, "B C H W"],
    x: Float[Tensor, "B C H W"],
    shift: Float[Tensor, "b C"] | None,
    norm: nn.GroupNorm,
    add: Float[Tensor, "B C H W"] | None = None,
) -> Float[Tensor, "B C H W"]:
    """The gradient in x, plus `add`."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(norm_silu_plain(x, shift, norm), x, grad)
    return grad if add is None else grad + add


def statistics(
    x: Float[Tensor, "B C H W"], shift: Float[Tensor, "b C"] | None, norm: nn.GroupNorm
) -> Tables:
    """μ − e and r of every channel; no e is 0."""
    batch, channels, n_parts, rows = _sizes(x)
    moments = x.new_empty(2, batch, n_parts, channels, dtype=torch.float32)
    _over_parts(x)(_moments_kernel, x, moments[0], moments[1])
    tables = moments.new_empty(2, batch, channels)
    stride = channels if shift is not None and len(shift) > 1 else 0
    _merge(
        _merge_moments_kernel, moments, tables, norm.num_groups, rows,
        x if shift is None else shift, stride, norm.eps, SHIFT=shift is not None,
    )  # fmt: skip
    return tables


def norm_silu(
    x: Float[Tensor, "B C H W"], tables: Tables, norm: nn.GroupNorm, silu: bool = True
) -> Float[Tensor, "B C H W"]:
    """silu(norm(x + e)), or without SiLU."""
    y = torch.empty_like(x)
    about = (tables[0], tables[1], norm.weight, norm.bias)
    _over_tiles(x)(_norm_silu_kernel, x, *about, y, SILU=silu)
    return y


def norm_silu_backward(
    grad: Float[Tensor, "B C H W"],
    x: Float[Tensor, "B C H W"],
    tables: Tables,
    norm: nn.GroupNorm,
    add: Float[Tensor, "B C H W"] | None = None,
) -> Float[Tensor, "B C H W"]:
    batch, channels, n_parts, rows = _sizes(x)
    sums = x.new_empty(2, batch, n_parts, channels, dtype=torch.float32)
    about = (tables[0], tables[1], norm.weight, norm.bias)
    _over_parts(x)(_slopes_kernel, x, grad, *about, sums[0], sums[1])
    means = torch.empty_like(tables)
    _merge(_merge_slopes_kernel, sums, means, norm.num_groups, rows)
    out, plus = torch.empty_like(x), x if add is None else add
    means = (means[0], means[1])
    _over_tiles(x)(_gradient_kernel, x, grad, *about, *means, plus, out, ADD=add is not None)
    return out


def add_with_bias(
    x: Float[Tensor, "B C H W"], y: Float[Tensor, "B C H W"], bias: Float[Tensor, " C"]
) -> Float[Tensor, "B C H W"]:
    """x + y + bias, written into x."""
    _over_tiles(x)(_add_kernel, x, y, bias)
    return x


def _merge(kernel, parts: Tensor, tables: Tables, groups: int, rows: int, *more, **flags) -> None:
    """Starts a kernel that goes from the sums of parts, of two kinds, to two values of a group."""
    _, batch, n_parts, channels = parts.shape
    in_group = channels // groups
    with torch.cuda.device_of(parts):
        kernel[(batch, groups)](
            parts[0], parts[1], tables[0], tables[1], rows, channels, in_group, *more,
            PARTS=n_parts, WIDTH=triton.next_power_of_2(in_group), num_warps=1, **flags,
        )  # fmt: skip


def _sizes(x: Float[Tensor, "B C H W"]) -> tuple[int, int, int, int]:
    """B, C, in how many parts an image's pixels are summed, and the pixels of one."""
    batch, channels, height, width = x.shape
    pixels, n_parts = height * width, 1
    while n_parts < MOST_PARTS and pixels % (2 * n_parts) == 0 and pixels // n_parts > ROWS:
        n_parts *= 2
    return batch, channels, n_parts, pixels // n_parts


def _over_parts(x: Float[Tensor, "B C H W"]):
    """Starts a kernel that sums `rows` pixels of an image in each program."""
    batch, channels, n_parts, rows = _sizes(x)
    return _starter(x, (n_parts, batch), rows, channels)


def _over_tiles(x: Float[Tensor, "B C H W"]):
    """Starts a kernel that treats every element once."""
    batch, channels, height, width = x.shape
    n_tiles = triton.cdiv(height * width, ROWS)
    return _starter(x, (n_tiles, batch), height * width, channels)


def _starter(x: Tensor, grid: tuple[int, int], rows: int, channels: int):
    def start(kernel, *tensors: Tensor, **flags: bool) -> None:
        for tensor in tensors:
            if tensor.ndim == 4 and not tensor.is_contiguous(memory_format=torch.channels_last):
                raise AssertionError("activations are not channels last")
        with torch.cuda.device_of(x):
            kernel[(*grid, triton.cdiv(channels, CHANNELS))](
                *tensors, rows, channels, ROWS=ROWS, CHANNELS=CHANNELS, num_warps=4, **flags
            )

    return start


if triton is not None:

    @triton.jit
    def _moments_kernel(
        x, means, squares, rows, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr
    ):  # fmt: skip
        """Each channel's mean and sum of squared differences from it, over a part's pixels."""
        part = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
        channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
        x += part * rows * channels + channel
        pivot = tl.load(x, mask=channel < channels, other=0.0).to(tl.float32)
        total = tl.zeros([ROWS, CHANNELS], tl.float32)  # of differences from a first value:
        squared = tl.zeros([ROWS, CHANNELS], tl.float32)  # sums of squares of large ones cancel
        for first in range(0, rows, ROWS):
            row = first + tl.arange(0, ROWS)[:, None]
            inside = (row < rows) & (channel < channels)
            value = tl.load(x + row.to(tl.int64) * channels, mask=inside, other=0.0)
            value = tl.where(inside, value.to(tl.float32) - pivot, 0.0)
            total += value
            squared += value * value
        mean = tl.sum(total, axis=0, keep_dims=True) / rows
        square = tl.sum(squared, axis=0, keep_dims=True) - mean * mean * rows
        where = part * channels + channel
        tl.store(means + where, pivot + mean, mask=channel < channels)
        tl.store(squares + where, tl.maximum(square, 0.0), mask=channel < channels)

    @triton.jit
    def _parts_of_group(
        parts, channels, in_group, PARTS: tl.constexpr, WIDTH: tl.constexpr
    ):  # fmt: skip
        """Of this program's image and group, [PARTS, WIDTH]; beyond the group 0."""
        lane = tl.arange(0, WIDTH)[None, :]
        part = tl.program_id(0) * PARTS + tl.arange(0, PARTS)[:, None]
        where = part * channels + tl.program_id(1) * in_group + lane
        return tl.load(parts + where, mask=lane < in_group, other=0.0)

    @triton.jit
    def _sum(values):
        return tl.sum(tl.sum(values, axis=1), axis=0)

    @triton.jit
    def _merge_moments_kernel(
        means, squares, m, r, rows, channels, in_group, shift, stride, eps,
        PARTS: tl.constexpr, WIDTH: tl.constexpr, SHIFT: tl.constexpr,
    ):  # fmt: skip
        lane = tl.arange(0, WIDTH)[None, :]
        channel = tl.program_id(1) * in_group + lane
        inside = lane < in_group
        mean = _parts_of_group(means, channels, in_group, PARTS, WIDTH)
        square = _sum(_parts_of_group(squares, channels, in_group, PARTS, WIDTH))
        e = tl.zeros([1, WIDTH], tl.float32)
        if SHIFT:
            e += tl.load(shift + tl.program_id(0) * stride + channel, mask=inside, other=0.0)
            mean += e
        of_group = _sum(mean) / (PARTS * in_group)
        difference = tl.where(inside, mean - of_group, 0.0)
        square += rows * _sum(difference * difference)
        r_of_group = 1.0 / tl.sqrt(square / (PARTS * in_group * rows) + eps)
        where = tl.program_id(0) * channels + channel
        tl.store(m + where, of_group - e, mask=inside)
        tl.store(r + where, r_of_group + tl.zeros([1, WIDTH], tl.float32), mask=inside)

    @triton.jit
    def _merge_slopes_kernel(
        sums, products, d_mean, dx_mean, rows, channels, in_group,
        PARTS: tl.constexpr, WIDTH: tl.constexpr,
    ):  # fmt: skip
        lane = tl.arange(0, WIDTH)[None, :]
        where = tl.program_id(0) * channels + tl.program_id(1) * in_group + lane
        zero = tl.zeros([1, WIDTH], tl.float32)
        count = PARTS * in_group * rows
        d = _sum(_parts_of_group(sums, channels, in_group, PARTS, WIDTH)) / count
        dx = _sum(_parts_of_group(products, channels, in_group, PARTS, WIDTH)) / count
        tl.store(d_mean + where, d + zero, mask=lane < in_group)
        tl.store(dx_mean + where, dx + zero, mask=lane < in_group)

    @triton.jit
    def _of_channel(m, r, weight, bias, image, channel, channels):
        inside = channel < channels
        where = image * channels + channel
        return (
            tl.load(m + where, mask=inside, other=0.0),
            tl.load(r + where, mask=inside, other=0.0),
            tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32),
            tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32),
        )

    @triton.jit
    def _slope(x, grad, m, r, weight, bias):
        """x̂ and d."""
        x_hat = (x.to(tl.float32) - m) * r
        u = x_hat * weight + bias
        sigma = tl.sigmoid(u)
        return x_hat, grad.to(tl.float32) * sigma * (1.0 + u * (1.0 - sigma)) * weight

    @triton.jit
    def _tile(rows, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
        """Of a program that has one tile: its image, its channels, its elements."""
        image = tl.program_id(1).to(tl.int64)
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
        channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
        where = (image * rows + row) * channels + channel
        return image, channel, where, (row < rows) & (channel < channels)

    @triton.jit
    def _norm_silu_kernel(
        x, m, r, weight, bias, y, rows, channels,
        ROWS: tl.constexpr, CHANNELS: tl.constexpr, SILU: tl.constexpr,
    ):  # fmt: skip
        image, channel, where, inside = _tile(rows, channels, ROWS, CHANNELS)
        m, r, weight, bias = _of_channel(m, r, weight, bias, image, channel, channels)
        value = tl.load(x + where, mask=inside, other=0.0).to(tl.float32)
        u = (value - m) * r * weight + bias
        if SILU:
            u = u * tl.sigmoid(u)
        tl.store(y + where, u, mask=inside)

    @triton.jit
    def _slopes_kernel(
        x, grad, m, r, weight, bias, sums, products, rows, channels,
        ROWS: tl.constexpr, CHANNELS: tl.constexpr,
    ):  # fmt: skip
        """Each channel's sums of d and of d x̂ over a part's pixels."""
        image = tl.program_id(1).to(tl.int64)
        part = image * tl.num_programs(0) + tl.program_id(0)
        channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
        m, r, weight, bias = _of_channel(m, r, weight, bias, image, channel, channels)
        x += part * rows * channels + channel
        grad += part * rows * channels + channel
        total = tl.zeros([ROWS, CHANNELS], tl.float32)
        product = tl.zeros([ROWS, CHANNELS], tl.float32)
        for first in range(0, rows, ROWS):
            row = first + tl.arange(0, ROWS)[:, None]
            inside = (row < rows) & (channel < channels)
            where = row.to(tl.int64) * channels
            value = tl.load(x + where, mask=inside, other=0.0)
            dy = tl.load(grad + where, mask=inside, other=0.0)
            x_hat, d = _slope(value, dy, m, r, weight, bias)
            total += d
            product += d * x_hat
        where = part * channels + channel
        tl.store(sums + where, tl.sum(total, axis=0, keep_dims=True), mask=channel < channels)
        tl.store(products + where, tl.sum(product, axis=0, keep_dims=True), mask=channel < channels)

    @triton.jit
    def _gradient_kernel(
        x, grad, m, r, weight, bias, d_mean, dx_mean, plus, out, rows, channels,
        ROWS: tl.constexpr, CHANNELS: tl.constexpr, ADD: tl.constexpr,
    ):  # fmt: skip
        image, channel, where, inside = _tile(rows, channels, ROWS, CHANNELS)
        m, r, weight, bias = _of_channel(m, r, weight, bias, image, channel, channels)
        of_channel = image * channels + channel
        d_mean = tl.load(d_mean + of_channel, mask=channel < channels, other=0.0)
        dx_mean = tl.load(dx_mean + of_channel, mask=channel < channels, other=0.0)
        value = tl.load(x + where, mask=inside, other=0.0)
        dy = tl.load(grad + where, mask=inside, other=0.0)
        x_hat, d = _slope(value, dy, m, r, weight, bias)
        result = r * (d - d_mean - x_hat * dx_mean)
        if ADD:
            result += tl.load(plus + where, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + where, result, mask=inside)

    @triton.jit
    def _add_kernel(x, y, bias, rows, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
        _, channel, where, inside = _tile(rows, channels, ROWS, CHANNELS)
        total = tl.load(x + where, mask=inside, other=0.0).to(tl.float32)
        total += tl.load(y + where, mask=inside, other=0.0).to(tl.float32)
        total += tl.load(bias + channel, mask=channel < channels, other=0.0).to(tl.float32)
        tl.store(x + where, total, mask=inside)
