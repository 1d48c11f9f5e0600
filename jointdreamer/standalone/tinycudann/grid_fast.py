"""The grid encoding made quick: derivatives written out by hand, computed by Triton or PyTorch.

Same function as `grid_plain.grid_encode_plain`, with derivatives up to second order (analytic
normals differentiate the input gradient once more). Only the points are kept for the backward pass;
indices are cheaper to recompute than to store.

`grid_torch` computes everything. On a CUDA device, in single precision, `grid_triton` does it in
its place, in one kernel launch a pass, wherever Triton is installed and works. The environment
variable JOINTDREAMER_TRITON=0 leaves Triton out.
"""

import os
import warnings
from functools import cache
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from tinycudann import grid_torch
from tinycudann.grid_layout import GridLayout

SWITCH = "JOINTDREAMER_TRITON"


def grid_encode(
    x: Float[Tensor, "N 3"], params: Float[Tensor, "P"], layout: GridLayout
) -> Float[Tensor, "N F"]:
    """Interpolate every level multilinearly at points in [0, 1]^3; outputs level by level.

    Twice differentiable in `x` and `params`.
    """
    return _Encode.apply(x, params, layout.on(x.device))


def grid_input_gradient(
    grad: Float[Tensor, "N F"],
    x: Float[Tensor, "N 3"],
    params: Float[Tensor, "P"],
    layout: GridLayout,
    encoded: Float[Tensor, "N F"] | None = None,
) -> Float[Tensor, "N 3"]:
    """The gradient in x of <grad, encoding>, differentiable once more.

    What autograd finds from `grid_encode` with an x that requires a gradient, without the gradient
    in `params` that it would find on the way, and without that in x on the way back.

    Args:
        encoded: what `grid_encode` returned for the same points. Both gradients in `params` are
            then found together, in one pass of Triton's.
    """
    encode = None if encoded is None else encoded.grad_fn
    if not getattr(encode, "takes_slopes", False):
        encoded = None
    return _InputGradient.apply(grad, x, params, layout.on(x.device), encoded)


class _Encode(Function):
    @staticmethod
    def forward(ctx, x, params, layout):
        ctx.save_for_backward(x, params)
        ctx.layout = layout
        operations = _operations(x, params, layout)
        # an `_InputGradient` may leave its part of the gradient in params here, before `backward`
        ctx.takes_slopes, ctx.slopes = hasattr(operations, "param_gradients"), None
        return operations.encode(x, params, layout)

    @staticmethod
    def backward(ctx, grad_output):
        x, params = ctx.saved_tensors
        slopes, ctx.slopes = ctx.slopes, None
        grad_x = grad_params = None
        if ctx.needs_input_grad[0]:
            grad_x = _InputGradient.apply(grad_output, x, params, ctx.layout, None)
        if ctx.needs_input_grad[1] and slopes is None:
            grad_params = _ParamGradient.apply(grad_output, x, params, ctx.layout)
        elif ctx.needs_input_grad[1]:
            operations = _operations(x, params, ctx.layout)
            grad_params = operations.param_gradients(grad_output, *slopes, x, params, ctx.layout)
        return grad_x, grad_params, None


class _ParamGradient(Function):
    """The gradient for the parameters: linear in the output gradient, free of the parameters."""

    @staticmethod
    def forward(ctx, grad_output, x, params, layout):
        ctx.save_for_backward(grad_output, x)
        ctx.layout = layout
        return _operations(x, params, layout).param_gradient(grad_output, x, params, layout)

    @staticmethod
    def backward(ctx, cotangent):
        # <cotangent, sum w g> as a function of g and x is the encoding with parameters `cotangent`.
        grad_output, x = ctx.saved_tensors
        grad_grad_output = grad_x = None
        if ctx.needs_input_grad[0]:
            grad_grad_output = _Encode.apply(x, cotangent, ctx.layout)
        if ctx.needs_input_grad[1]:
            grad_x = _InputGradient.apply(grad_output, x, cotangent, ctx.layout, None)
        return grad_grad_output, grad_x, None, None


class _InputGradient(Function):
    """The gradient for the points.

    `encoded` is an input so that autograd goes on to its `_Encode` after this, whatever else does.
    """

    @staticmethod
    def forward(ctx, grad_output, x, params, layout, encoded):
        ctx.save_for_backward(grad_output, x, params)
        ctx.layout = layout
        ctx.encode = None if encoded is None else encoded.grad_fn
        if ctx.encode is not None:
            ctx.encode.takes_slopes = False  # of others
        return _operations(x, params, layout).input_gradient(grad_output, x, params, layout)

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangent):
        grad_output, x, params = ctx.saved_tensors
        operations = _operations(x, params, ctx.layout)
        options = {"with_x": ctx.needs_input_grad[1]}
        if ctx.encode is not None:
            options["with_params"] = False
            ctx.encode.slopes = cotangent, grad_output
        gradients = operations.input_gradient_backward(
            cotangent, grad_output, x, params, ctx.layout, **options
        )
        return *gradients, None, None


def _operations(x: Tensor, params: Tensor, layout: GridLayout) -> ModuleType:
    """The module that computes: `grid_triton` where it can, else `grid_torch`."""
    for_triton = (
        x.is_cuda
        and x.device == params.device
        and x.dtype == params.dtype == torch.float32
        and x.shape[1:] == (3,)  # what does not fit, PyTorch names
        and params.shape == (layout.n_params,)
        and os.environ.get(SWITCH) != "0"
    )
    return for_triton and _working_triton(layout, x.device) or grid_torch


@cache
def _working_triton(layout: GridLayout, device: torch.device) -> ModuleType | None:
    """`grid_triton` if its kernels compile and start on this device; a warning says why not.

    Triton needs more than its package: a GPU that it knows, a C compiler, the driver's library.
    """
    try:
        import triton  # noqa: F401
    except ImportError:
        return None
    try:
        from tinycudann import grid_triton

        no_points = torch.empty(0, 3, device=device)
        grid_triton.encode(no_points, torch.empty(1, device=device), layout)
    except Exception as error:  # compilers, drivers and Triton raise all sorts
        reason = " ".join(str(error).split()) or type(error).__name__
        warnings.warn(
            f"The grid encoding runs in PyTorch: Triton does not work here ({reason}).",
            stacklevel=2,
        )
        return None
    return grid_triton
