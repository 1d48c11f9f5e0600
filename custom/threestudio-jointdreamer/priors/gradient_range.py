"""Keeps gradients within the range of half precision while they pass half-precision models.

Gradients of single pixels are easily below what fp16 resolves (6e-8 to 6e-5) or, after a steep
head, above what it holds (65504). Multiplying them by a power of two before, and dividing by it
after, costs no accuracy. A gradient is only known in the backward pass, so the factor is chosen
there, and one for each sample.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

# The largest value of a sample's gradient where it enters the half-precision models. For SD's VAE
# and a ViT-S/16, both random, fp16 gradients were as good as fp32 ones from 0.2 to 3000.
TARGET = 32.0


def within_half_range(
    function: Callable[[Float[Tensor, "B ..."]], Float[Tensor, "B ..."]],
    x: Float[Tensor, "B ..."],
) -> Float[Tensor, "B ..."]:
    """`function(x)`, whose gradient is scaled on its way back through `function` only.

    Args:
        function: treats samples independently, and takes and gives single precision, whatever it
            computes in.
    """
    inside = x.view_as(x)
    if not inside.requires_grad:
        return function(x)
    factor: Float[Tensor, " B"]

    def choose_and_multiply(grad: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        nonlocal factor
        largest = grad.detach().abs().flatten(1).amax(dim=1)
        exponent = (TARGET / largest).log2().floor().clamp(-100, 100)  # ∞ for a gradient of zeros
        factor = exponent.exp2()
        return grad * _like(factor, grad)

    inside.register_hook(lambda grad: grad / _like(factor, grad))
    y = function(inside)
    y = y.view_as(y)  # hooks of the function's own see what runs through it
    y.register_hook(choose_and_multiply)
    return y


def _like(factor: Float[Tensor, " B"], x: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
    return factor.view(-1, *[1] * (x.ndim - 1))
