"""Density, features and the density's slope from one encoding, by two networks of one hidden layer.

In PyTorch a sample's hidden activations, their gradients and those of analytic normals, about a
kilobyte, are written and read a dozen times. Triton's kernels keep them in registers: they read the
encoding and write the results, and the backward pass computes the activations again.

With W₁, w₂ of the density's network, V₁, V₂ of the features', and the encoding e:

    raw = w₂ relu(W₁ e),    features = V₂ relu(V₁ e),    slope = ∂raw/∂e = W₁ᵀ (w₂ ⊙ [W₁ e > 0]).

The slope's derivative in e is 0 but where the step [·] jumps, for which autograd has none either.
"""

import os
import warnings
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

SWITCH = "JOINTDREAMER_TRITON"
LEAST = (8, 0)  # compute capability: of TF32, whose products the kernels are made of

Results = tuple[Float[Tensor, "M 1"], Float[Tensor, "M C"], Float[Tensor, "M D"]]


def fused_field(
    encoded: Float[Tensor, "M D"],
    density: tuple[Float[Tensor, "H D"], Float[Tensor, "1 H"]],
    features: tuple[Float[Tensor, "H D"], Float[Tensor, "C H"]],
) -> Results:
    """raw, features and slope, by the kernels; differentiable once."""
    return _Field.apply(encoded, *density, *features)


def field_plain(
    encoded: Float[Tensor, "M D"],
    density: tuple[Float[Tensor, "H D"], Float[Tensor, "1 H"]],
    features: tuple[Float[Tensor, "H D"], Float[Tensor, "C H"]],
) -> Results:
    """The specification."""
    (w1, w2), (v1, v2) = density, features
    hidden = encoded @ w1.t()
    slope = (w2 * (hidden > 0)) @ w1
    return hidden.relu() @ w2.t(), (encoded @ v1.t()).relu() @ v2.t(), slope


def fused_density(
    encoded: Float[Tensor, "M D"], density: tuple[Float[Tensor, "H D"], Float[Tensor, "1 H"]]
) -> Float[Tensor, "M 1"]:
    """raw alone, without a gradient."""
    from threestudio.models import fused_field_triton

    return fused_field_triton.evaluate_density(encoded, *density)


class _Field(Function):
    @staticmethod
    def forward(ctx, encoded, w1, w2, v1, v2):
        from threestudio.models import fused_field_triton

        ctx.save_for_backward(encoded, w1, w2, v1, v2)
        return fused_field_triton.evaluate(encoded, w1, w2, v1, v2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_raw, grad_features, grad_slope):
        from threestudio.models import fused_field_triton

        grads = grad_raw, grad_features, grad_slope
        return fused_field_triton.gradients(*ctx.saved_tensors, *grads)


def kernels_work(weight: Float[Tensor, "H D"]) -> bool:
    """Whether Triton serves networks with a first layer like this one."""
    return (
        weight.is_cuda
        and weight.dtype == torch.float32
        and os.environ.get(SWITCH) != "0"
        and _kernels_work(weight.device, *weight.shape)
    )


@cache
def _kernels_work(device: torch.device, n_hidden: int, n_in: int) -> bool:
    """Whether they compile and start on this device; a warning says why not."""
    if torch.cuda.get_device_capability(device) < LEAST:
        return False
    try:
        from threestudio.models import fused_field_triton

        x, first = (torch.zeros(n, n_in, device=device) for n in (1, n_hidden))
        last = torch.zeros(1, n_hidden, device=device)
        fused_field_triton.evaluate_density(x, first, last)
        found = fused_field_triton.evaluate(x, first, last, first, last)
        fused_field_triton.gradients(x, first, last, first, last, *found)
    except ImportError:
        return False
    except Exception as error:  # compilers, drivers and Triton raise all sorts
        reason = " ".join(str(error).split()) or type(error).__name__
        warnings.warn(
            "The networks of the density and the features run in PyTorch: Triton does not work "
            f"here ({reason}).",
            stacklevel=2,
        )
        return False
    return True
