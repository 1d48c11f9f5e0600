"""Pictures of what the guidance saw and wants, under threestudio's names."""

from collections.abc import Callable
from itertools import pairwise
from math import ceil

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..priors.latent_prior import LatentPrior
from ..priors.schedule import GaussianPath

FULL_SAMPLING_STEPS = 50


@torch.no_grad()
def guidance_pictures(
    prior: LatentPrior,
    predict: Callable[[Tensor, Tensor], Tensor],
    x_t: Float[Tensor, "B C h w"],
    eps_hat: Float[Tensor, "B C h w"],
    t: Int[Tensor, " B"],
) -> dict:
    """Denoises x_t to the end by deterministic DDIM (Song et al. 2021, η = 0; Euler for a flow).

    Nothing is drawn from the random number generators, so looking changes no training run.

    Args:
        predict: (x_t, t) to the guided noise.
        eps_hat: that noise for the given `x_t` and `t`.

    Returns:
        `bs`, `noise_levels` (t / T) and, as images [B H W 3] in [0, 1], `imgs_noisy`: x_t,
        `imgs_1orig`: x̂0, `imgs_1step`: after one DDIM step, `imgs_final`: after all of them.
    """
    schedule = prior.schedule
    steps = ceil(FULL_SAMPLING_STEPS * t.max().item() / schedule.num_train_timesteps)
    trajectory = _ddim(schedule, predict, x_t, eps_hat, t, max(steps, 2))
    latents = {
        "imgs_noisy": x_t,
        "imgs_1step": trajectory[0],
        "imgs_1orig": schedule.denoise(x_t, eps_hat, t),
        "imgs_final": trajectory[-1],
    }
    return {
        "bs": len(x_t),
        "noise_levels": (t / schedule.num_train_timesteps).tolist(),
        **{name: picture(prior, x) for name, x in latents.items()},
    }


@torch.no_grad()
def picture(prior: LatentPrior, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B H W 3"]:
    """Latents as images in [0, 1]."""
    return prior.decode(latents).permute(0, 2, 3, 1)


def captions(
    noise_levels: list[float],
    elevation: Float[Tensor, " B"],
    azimuth: Float[Tensor, " B"],
    camera_distances: Float[Tensor, " B"],
) -> list[str]:
    """Noise level, elevation, azimuth (degrees) and camera distance of each picture."""
    rows = zip(
        noise_levels,
        elevation.tolist(),
        azimuth.tolist(),
        camera_distances.tolist(),
        strict=False,  # pictures may be fewer than views
    )
    return [f"n{n:.2f}\ne{e:.1f}\na{a:.1f}\nc{c:.2f}" for n, e, a, c in rows]


def _ddim(
    schedule: GaussianPath,
    predict: Callable[[Tensor, Tensor], Tensor],
    x_t: Tensor,
    eps: Tensor,
    t: Tensor,
    steps: int,
) -> list[Tensor]:
    """x after each step of an even walk from t to 0, every item from its own t."""
    times = [t * (steps - k) // steps for k in range(steps)]
    xs = [x_t]
    for now, later in pairwise(times):
        xs.append(schedule.add_noise(schedule.denoise(xs[-1], eps, now), eps, later))
        eps = predict(xs[-1], later)
    xs.append(schedule.denoise(xs[-1], eps, times[-1]))
    return xs[1:]
