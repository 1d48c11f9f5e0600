"""DDIM: from noisy to clean latents in a few steps."""

from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor

from .schedule import GaussianPath


def ddim(
    schedule: GaussianPath,
    denoise: Callable[[Float[Tensor, "N ..."], Int[Tensor, " N"]], Float[Tensor, "N ..."]],
    x_t: Float[Tensor, "N ..."],
    t: Int[Tensor, " N"],
    steps: int,
) -> Float[Tensor, "N ..."]:
    """Clean latents, by steps of equal length without noise (Song et al. 2020, arXiv 2010.02502).

    Args:
        denoise: (x_t, t) to x̂0, one call of the model.
        t: where to begin, one per item.
        steps: calls of `denoise`; with 1 the result is its one-step estimate.
    """
    for left in range(steps, 1, -1):
        x0 = denoise(x_t, t)
        eps = schedule.to_noise(x_t, x0, t)
        t = t * (left - 1) // left
        x_t = schedule.add_noise(x0, eps, t)
    return denoise(x_t, t)
