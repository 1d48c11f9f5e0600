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

Table = Float[Tensor, "B C"]


def norm_silu_plain(
    x: Float[Tensor, "B C H W"], shift: Float[Tensor, "b C"], norm: nn.GroupNorm
) -> Float[Tensor, "B C H W"]:
    """silu(norm(x + shift)), in PyTorch: the specification."""
    shifted = x + shift[:, :, None, None]
    return F.silu(F.group_norm(shifted, norm.num_groups, norm.weight, norm.bias, norm.eps))


def norm_silu_backward_plain(
    grad: Float[Tensor, "B C H W"],
    x: Float[Tensor, "B C H W"],
    shift: Float[Tensor, "b C"],
    norm: nn.GroupNorm,
    add: Float[Tensor, "B C H W"] | None = None,
) -> Float[Tensor, "B C H W"]:
    """The gradient in x, plus `add`."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(norm_silu_plain(x, shift, norm), x, grad)
    return grad if add is None else grad + add


def statistics(
    x: Float[Tensor, "B C H W"], shift: Float[Tensor, "b C"], norm: nn.GroupNorm
) -> tuple[Table, Table]:
    """μ − e and r of every channel."""
    batch, channels, n_parts, rows = _sizes(x)
    means, squares = x.new_empty(2, batch, n_parts, channels, dtype=torch.float32)
    _over_parts(x)(_moments_kernel, x, means, squares)
    each = (batch, n_parts, norm.num_groups, -1)
    means = (means + shift.float()[:, None]).view(each)
    mean = means.mean((1, 3), keepdim=True)
    squares = squares.view(each).sum((1, 3)) + rows * (means - mean).square().sum((1, 3))
    in_group = n_parts * rows * channels // norm.num_groups
    r = (squares / in_group + norm.eps).rsqrt()
    return _of_channels(mean.flatten(1), channels) - shift.float(), _of_channels(r, channels)


def norm_silu(x: Float[Tensor, "B C H W"], m: Table, r: Table, norm: nn.GroupNorm) -> Tensor:
    y = torch.empty_like(x)
    _over_tiles(x)(_norm_silu_kernel, x, m, r, norm.weight, norm.bias, y)
    return y


def norm_silu_backward(
    grad: Float[Tensor, "B C H W"],
    x: Float[Tensor, "B C H W"],
    m: Table,
    r: Table,
    norm: nn.GroupNorm,
    add: Float[Tensor, "B C H W"] | None = None,
) -> Float[Tensor, "B C H W"]:
    batch, channels, n_parts, rows = _sizes(x)
    sums = x.new_empty(2, batch, n_parts, channels, dtype=torch.float32)
    about = (m, r, norm.weight, norm.bias)
    _over_parts(x)(_slopes_kernel, x, grad, *about, sums[0], sums[1])
    means = sums.view(2 * batch, n_parts, norm.num_groups, -1).mean((1, 3)) / rows
    d, dx = _of_channels(means, channels).view(2, batch, channels)
    out = torch.empty_like(x)
    plus = x if add is None else add
    _over_tiles(x)(_gradient_kernel, x, grad, *about, d, dx, plus, out, ADD=add is not None)
    return out


def add_with_bias(
    x: Float[Tensor, "B C H W"], y: Float[Tensor, "B C H W"], bias: Float[Tensor, " C"]
) -> Float[Tensor, "B C H W"]:
    """x + y + bias, written into x."""
    _over_tiles(x)(_add_kernel, x, y, bias)
    return x


def _of_channels(values: Float[Tensor, "B G"], channels: int) -> Table:
    return values.repeat_interleave(channels // values.shape[1], dim=1)


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
        x, m, r, weight, bias, y, rows, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr
    ):  # fmt: skip
        image, channel, where, inside = _tile(rows, channels, ROWS, CHANNELS)
        m, r, weight, bias = _of_channel(m, r, weight, bias, image, channel, channels)
        value = tl.load(x + where, mask=inside, other=0.0).to(tl.float32)
        u = (value - m) * r * weight + bias
        tl.store(y + where, u * tl.sigmoid(u), mask=inside)

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
