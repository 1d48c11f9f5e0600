"""Draws views from the tiny image-to-views prior beside the truth, to look at them."""

from pathlib import Path

import torch
from diffusers import DDIMScheduler
from jaxtyping import Float
from threestudio_jointdreamer.priors import wonder3d, zero123  # noqa: F401  (makes them known)
from threestudio_jointdreamer.priors.image_prior import load_image_prior
from torch import Tensor

from .captions import parse
from .creatures import build
from .dataset import DEFAULT_BACKGROUND
from .models import N_VIEW
from .renderer import orbit_cameras, render
from .translation import ring_of_cameras


def true_views(
    prompts: list[str], azimuth_deg: float, elevation_deg: float, n_view: int = N_VIEW
) -> Float[Tensor, "N V 3 H W"]:
    """Renders of the creatures that the prompts describe, at equal steps of azimuth."""
    rows = []
    for prompt in prompts:
        azimuth = azimuth_deg + torch.arange(n_view) * (360.0 / n_view)
        c2w = orbit_cameras(
            azimuth, torch.full((n_view,), elevation_deg), torch.full((n_view,), 2.75)
        )
        objects = build(parse(prompt))[torch.zeros(n_view, dtype=torch.long)]
        background = torch.tensor(DEFAULT_BACKGROUND).expand(n_view, 3)
        rows.append(render(objects, c2w, torch.full((n_view,), 40.0), background))
    return torch.stack(rows)


@torch.no_grad()
def sample_views(
    root: Path,
    prior: str,
    truth: Float[Tensor, "N V 3 H W"],
    seed: int = 0,
    guidance_scale: float = 1.5,
    steps: int = 50,
    device: str = "cpu",
) -> Float[Tensor, "N V 3 H W"]:
    """DDIM samples of an object's views, given the first of the true ones.

    Args:
        root: folder of the weights.
        prior: a folder in it with an image-to-image prior, `wonder3d`.
        truth: views at equal steps of azimuth, in [0, 1].
        seed: seeds the initial noise.
        guidance_scale: weight of the reference over none; 1 is the plain conditional model.
        steps: DDIM steps.
        device: where to sample.

    Returns:
        Pictures in [0, 1], that of the reference's own view among them.

    Raises:
        FileNotFoundError, ValueError: as `load_image_prior`.
    """
    model = load_image_prior(
        str(root / prior),
        torch.device(device),
        half_precision_weights=False,
        vae_from=str(root / "stable-diffusion"),
        key="--root",
    )
    n, n_view = truth.shape[:2]
    reference = model.look_at(truth[:, 0].to(device))
    cameras = ring_of_cameras(n, n_view, torch.device(device))
    shape = (n, n_view, model.prior.latent_channels, *[model.prior.latent_size] * 2)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)
    scheduler = DDIMScheduler.from_pretrained(root / prior / "scheduler")
    scheduler.set_timesteps(steps)
    guided = guidance_scale != 1
    for t in scheduler.timesteps:
        at_t = torch.full((n,), int(t), device=device)
        eps, without = model.predict_noise(latents, at_t, reference, cameras, guided)
        if guided:
            eps = without + guidance_scale * (eps - without)
        latents = scheduler.step(eps, t, latents).prev_sample
    return model.prior.decode(latents.flatten(0, 1)).unflatten(0, (n, n_view))
