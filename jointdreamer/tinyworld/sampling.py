"""Draws pictures from the tiny priors, to look at them before anything is distilled from them."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from jaxtyping import Float
from threestudio_jointdreamer.priors.multiview import camera_condition, use_cross_view_attention
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModel

from .models import IMAGE_SIZE, LATENT_SIZE, N_VIEW
from .renderer import orbit_cameras


def _load(root: Path, prior: str, device: str):
    load = lambda cls, *parts: cls.from_pretrained(root.joinpath(*parts))  # noqa: E731
    unet = load(UNet2DConditionModel, prior, "unet").to(device, torch.float32).eval()
    vae = load(AutoencoderKL, "stable-diffusion", "vae").to(device, torch.float32).eval()
    text = load(CLIPTextModel, "stable-diffusion", "text_encoder").to(device, torch.float32).eval()
    tokenizer = load(AutoTokenizer, "stable-diffusion", "tokenizer")
    return unet, vae, text, tokenizer, load(DDIMScheduler, prior, "scheduler")


@torch.no_grad()
def sample(
    root: Path,
    prior: str,
    prompts: list[str],
    seed: int = 0,
    guidance_scale: float = 4.0,
    steps: int = 50,
    azimuth_deg: float = 0.0,
    elevation_deg: float = 15.0,
    device: str = "cpu",
) -> Float[Tensor, "N V 3 H W"]:
    """DDIM samples from a prior.

    Args:
        root: folder of the weights.
        prior: "stable-diffusion" (V = 1) or "mvdream" (V = 4 views, 90 degrees apart).
        prompts: N prompts.
        seed: seeds the initial noise.
        guidance_scale: weight of text over no text; 1 is the plain conditional model.
        steps: DDIM steps.
        azimuth_deg, elevation_deg: where the multi-view prior's first camera stands, in degrees.
        device: where to sample.

    Returns:
        Pictures in [0, 1].
    """
    unet, vae, text, tokenizer, scheduler = _load(root, prior, device)
    n_view = 1
    labels = None
    if unet.config.class_embed_type is not None:
        n_view = N_VIEW
        use_cross_view_attention(unet, n_view)
        azimuth = azimuth_deg + torch.arange(n_view, device=device) * 360.0 / n_view
        c2w = orbit_cameras(
            azimuth, torch.full_like(azimuth, elevation_deg), torch.full_like(azimuth, 2.7)
        )
        labels = camera_condition(c2w).repeat(2 * len(prompts), 1)
    tokens = tokenizer(
        prompts + [""] * len(prompts), padding="max_length", truncation=True, return_tensors="pt"
    )
    context = text(tokens.input_ids.to(device))[0].repeat_interleave(n_view, dim=0)
    noise = torch.randn(
        len(prompts) * n_view,
        unet.config.in_channels,
        LATENT_SIZE,
        LATENT_SIZE,
        generator=torch.Generator().manual_seed(seed),
    )
    latents = noise.to(device)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        both = unet(torch.cat([latents] * 2), t.to(device), context, class_labels=labels).sample
        with_text, without = both.chunk(2)
        predicted = without + guidance_scale * (with_text - without)
        latents = scheduler.step(predicted, t, latents).prev_sample
    images = vae.decode(latents / vae.config.scaling_factor).sample / 2 + 0.5
    return images.clamp(0, 1).view(len(prompts), n_view, 3, IMAGE_SIZE, IMAGE_SIZE)
