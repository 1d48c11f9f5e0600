"""The functions of `fused_field` as Triton kernels: hidden activations stay in registers.

Tensors are [BLOCK, IN], [BLOCK, HIDDEN] or [BLOCK, OUT], a sample a row, with sizes rounded up to
powers of two; what lies beyond a weight's rows and columns is 0. Products of matrices are those of
three TF32 products, whose errors are near single precision's.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

_BLOCK = 64  # samples
_LEAST = 16  # rows and columns of a product of matrices
_PROGRAMS = 2  # of the backward pass, for each multiprocessor


def evaluate_density(encoded: Tensor, w1: Tensor, w2: Tensor) -> Float[Tensor, "M 1"]:
    """raw alone."""
    n, raw = encoded.shape[0], encoded.new_empty(encoded.shape[0], 1)
    unused = raw, raw, raw, raw
    with torch.cuda.device_of(encoded):
        _evaluate_kernel[(max(1, triton.cdiv(n, _BLOCK)),)](
            encoded.contiguous(), w1, w2, *unused[:2], raw, *unused[2:], n,
            ALL=False, num_warps=4, **_sizes(encoded, w1, w2),
        )  # fmt: skip
    return raw


def evaluate(
    encoded: Tensor, w1: Tensor, w2: Tensor, v1: Tensor, v2: Tensor
) -> tuple[Float[Tensor, "M 1"], Float[Tensor, "M C"], Float[Tensor, "M D"]]:
    n = encoded.shape[0]
    raw, features = encoded.new_empty(n, 1), encoded.new_empty(n, v2.shape[0])
    slope = torch.empty_like(encoded, memory_format=torch.contiguous_format)
    with torch.cuda.device_of(encoded):
        _evaluate_kernel[(max(1, triton.cdiv(n, _BLOCK)),)](
            encoded.contiguous(), w1, w2, v1, v2, raw, features, slope, n,
            ALL=True, num_warps=4, **_sizes(encoded, w1, v2),
        )  # fmt: skip
    return raw, features, slope


def gradients(
    encoded: Tensor,
    w1: Tensor,
    w2: Tensor,
    v1: Tensor,
    v2: Tensor,
    grad_raw: Tensor,
    grad_features: Tensor,
    grad_slope: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """In the encoding and the four weights, whose parts of every program are summed afterwards."""
    n = encoded.shape[0]
    encoded = encoded.contiguous()
    grads = (grad.contiguous() for grad in (grad_raw, grad_slope, grad_features))
    of_raw, of_slope, of_features = grads
    programs = min(max(1, triton.cdiv(n, _BLOCK)), _PROGRAMS * _processors(encoded.device))
    grad_encoded = torch.empty_like(encoded)
    parts = [encoded.new_empty(programs, *weight.shape) for weight in (w1, w2, v1, v2)]
    options = {"num_warps": 4, "num_stages": 1, **_sizes(encoded, w1, v2)}
    with torch.cuda.device_of(encoded):
        _density_gradients_kernel[(programs,)](
            encoded, w1, w2, of_raw, of_slope, grad_encoded, *parts[:2], n, **options
        )
        _features_gradients_kernel[(programs,)](
            encoded, v1, v2, of_features, grad_encoded, *parts[2:], n, **options
        )
    return grad_encoded, *(part.sum(dim=0) for part in parts)


def _sizes(encoded: Tensor, w1: Tensor, v2: Tensor) -> dict[str, int]:
    n_hidden, n_in = w1.shape
    return {
        "n_in": n_in,
        "n_hidden": n_hidden,
        "n_out": v2.shape[0],
        "IN": max(_LEAST, triton.next_power_of_2(n_in)),
        "HIDDEN": max(_LEAST, triton.next_power_of_2(n_hidden)),
        "OUT": max(_LEAST, triton.next_power_of_2(v2.shape[0])),
        "BLOCK": _BLOCK,
    }


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


@triton.jit
def _rows(values, first, n_rows, n_columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Of a matrix, [ROWS, COLUMNS] from a row on; 0 beyond it."""
    row = first + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    inside = (row < n_rows) & (column < n_columns)
    return tl.load(values + row.to(tl.int64) * n_columns + column, mask=inside, other=0.0)


@triton.jit
def _store_rows(target, value, first, n_rows, n_columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = first + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    inside = (row < n_rows) & (column < n_columns)
    tl.store(target + row.to(tl.int64) * n_columns + column, value, mask=inside)


@triton.jit(do_not_specialize=["n", "n_out"])
def _evaluate_kernel(
    encoded, w1, w2, v1, v2, raw, features, slope, n,
    n_in, n_hidden, n_out,
    IN: tl.constexpr, HIDDEN: tl.constexpr, OUT: tl.constexpr,
    BLOCK: tl.constexpr, ALL: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * BLOCK
    w1_ = _rows(w1, 0, n_hidden, n_in, HIDDEN, IN)
    w2_ = _rows(w2, 0, 1, n_hidden, 1, HIDDEN)
    e = _rows(encoded, first, n, n_in, BLOCK, IN)
    hidden = tl.dot(e, w1_.T, input_precision="tf32x3")
    value = tl.sum(tl.maximum(hidden, 0.0) * w2_, axis=1, keep_dims=True)
    _store_rows(raw, value, first, n, 1, BLOCK, 1)
    if ALL:
        on = tl.where(hidden > 0, w2_, 0.0)
        value = tl.dot(on, w1_, input_precision="tf32x3")
        _store_rows(slope, value, first, n, n_in, BLOCK, IN)
        v1_ = _rows(v1, 0, n_hidden, n_in, HIDDEN, IN)
        v2_ = _rows(v2, 0, n_out, n_hidden, OUT, HIDDEN)
        hidden = tl.maximum(tl.dot(e, v1_.T, input_precision="tf32x3"), 0.0)
        value = tl.dot(hidden, v2_.T, input_precision="tf32x3")
        _store_rows(features, value, first, n, n_out, BLOCK, OUT)


@triton.jit(do_not_specialize=["n", "n_out"])
def _density_gradients_kernel(
    encoded, w1, w2, grad_raw, grad_slope, grad_encoded, grad_w1, grad_w2, n,
    n_in, n_hidden, n_out,
    IN: tl.constexpr, HIDDEN: tl.constexpr, OUT: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Each program treats every so many blocks, and adds up its part of the weights' gradients."""
    w1_ = _rows(w1, 0, n_hidden, n_in, HIDDEN, IN)
    w2_ = _rows(w2, 0, 1, n_hidden, 1, HIDDEN)
    in_w1 = tl.zeros([HIDDEN, IN], tl.float32)
    in_w2 = tl.zeros([1, HIDDEN], tl.float32)
    for first in range(tl.program_id(0) * BLOCK, n, tl.num_programs(0) * BLOCK):
        e = _rows(encoded, first, n, n_in, BLOCK, IN)
        of_raw = _rows(grad_raw, first, n, 1, BLOCK, 1)
        of_slope = _rows(grad_slope, first, n, n_in, BLOCK, IN)
        # raw = on · W₁ e and slope = W₁ᵀ on, with on = w₂ ⊙ [W₁ e > 0], so of both together:
        together = of_raw * e + of_slope
        hidden = tl.dot(e, w1_.T, input_precision="tf32x3")
        in_on = tl.dot(together, w1_.T, input_precision="tf32x3")
        in_w2 += tl.sum(tl.where(hidden > 0, in_on, 0.0), axis=0, keep_dims=True)
        on = tl.where(hidden > 0, w2_, 0.0)
        in_e = of_raw * tl.dot(on, w1_, input_precision="tf32x3")
        _store_rows(grad_encoded, in_e, first, n, n_in, BLOCK, IN)
        in_w1 += tl.dot(on.T, together, input_precision="tf32x3")
    program = tl.program_id(0)
    _store_rows(grad_w1 + program * n_hidden * n_in, in_w1, 0, n_hidden, n_in, HIDDEN, IN)
    _store_rows(grad_w2 + program * n_hidden, in_w2, 0, 1, n_hidden, 1, HIDDEN)


@triton.jit(do_not_specialize=["n", "n_out"])
def _features_gradients_kernel(
    encoded, v1, v2, grad_features, grad_encoded, grad_v1, grad_v2, n,
    n_in, n_hidden, n_out,
    IN: tl.constexpr, HIDDEN: tl.constexpr, OUT: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """As the density's; adds to the encoding's gradient."""
    v1_ = _rows(v1, 0, n_hidden, n_in, HIDDEN, IN)
    v2_ = _rows(v2, 0, n_out, n_hidden, OUT, HIDDEN)
    in_v1 = tl.zeros([HIDDEN, IN], tl.float32)
    in_v2 = tl.zeros([OUT, HIDDEN], tl.float32)
    for first in range(tl.program_id(0) * BLOCK, n, tl.num_programs(0) * BLOCK):
        e = _rows(encoded, first, n, n_in, BLOCK, IN)
        of_features = _rows(grad_features, first, n, n_out, BLOCK, OUT)
        hidden = tl.dot(e, v1_.T, input_precision="tf32x3")
        in_v2 += tl.dot(of_features.T, tl.maximum(hidden, 0.0), input_precision="tf32x3")
        in_hidden = tl.dot(of_features, v2_, input_precision="tf32x3")
        in_hidden = tl.where(hidden > 0, in_hidden, 0.0)
        in_e = _rows(grad_encoded, first, n, n_in, BLOCK, IN)
        in_e += tl.dot(in_hidden, v1_, input_precision="tf32x3")
        _store_rows(grad_encoded, in_e, first, n, n_in, BLOCK, IN)
        in_v1 += tl.dot(in_hidden.T, e, input_precision="tf32x3")
    program = tl.program_id(0)
    _store_rows(grad_v1 + program * n_hidden * n_in, in_v1, 0, n_hidden, n_in, HIDDEN, IN)
    _store_rows(grad_v2 + program * n_out * n_hidden, in_v2, 0, n_out, n_hidden, OUT, HIDDEN)
