"""Lets guided predictions keep the contrast of unguided ones (Lin et al. 2023, 2305.08891)."""

from jaxtyping import Float
from torch import Tensor


def rescale_std(
    guided: Float[Tensor, "N ..."], plain: Float[Tensor, "N ..."], amount: float
) -> Float[Tensor, "N ..."]:
    """`amount` of the way from `guided` to `guided` · std(plain) / std(guided), item by item.

    Their equations 15 and 16; 0 changes nothing, not even a bit.
    """
    if amount == 0:
        return guided
    axes = tuple(range(1, guided.ndim))
    factor = (plain.std(axes, keepdim=True) + 1e-8) / (guided.std(axes, keepdim=True) + 1e-8)
    return amount * guided * factor + (1 - amount) * guided
