"""Score Distillation Sampling, written down on its own as a reference for jsd-guidance."""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel


def sds_loss(folder, rgb, prompts, cameras, guidance_scale, n_view, steps=(20, 980)):
    """DreamFusion's loss with one timestep per `n_view` consecutive views.

    Random numbers are drawn as threestudio's stable-diffusion-guidance draws them: the VAE's
    sample, the timesteps, the noise.
    """
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")

    images = F.interpolate(rgb.permute(0, 3, 1, 2), (64, 64), mode="bilinear", align_corners=False)
    x = vae.encode(images * 2 - 1).latent_dist.sample().contiguous() * vae.config.scaling_factor
    t = torch.randint(steps[0], steps[1] + 1, [len(rgb) // n_view]).repeat_interleave(n_view)
    with torch.no_grad():
        noise = torch.randn_like(x)
        noisy = scheduler.add_noise(x, noise, t)
        text = prompts.get_text_embeddings(*cameras)
        output = unet(torch.cat([noisy] * 2), torch.cat([t] * 2), text).sample
        conditional, unconditional = output.chunk(2)
        predicted = conditional + guidance_scale * (conditional - unconditional)
        w = (1 - scheduler.alphas_cumprod[t]).view(-1, 1, 1, 1)
        target = x - torch.nan_to_num(w * (predicted - noise))
    return 0.5 * F.mse_loss(x, target, reduction="sum") / len(rgb)
