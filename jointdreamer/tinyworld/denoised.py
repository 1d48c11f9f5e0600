"""Pictures as jsd-guidance's 2D prior denoises them in one step: what an energy gets to see."""

import torch
from jaxtyping import UInt8
from threestudio_jointdreamer.priors.loading import load_prior
from threestudio_jointdreamer.prompts.text_encoder import embed_prompts
from torch import Tensor

from .dataset import chunks, to_bytes

MIN_PERCENT, MAX_PERCENT = 0.02, 0.98  # of all timesteps, as jsd-guidance draws them


class Denoiser:
    """A 2D prior that adds noise to pictures and removes it again, in one step.

    Args:
        name_or_path: a folder in diffusers layout or a hub name, with its text encoder.
        key: the option to name in errors.

    Raises:
        FileNotFoundError, ValueError: as `load_prior`.
    """

    def __init__(self, name_or_path: str, device: torch.device, key: str = "name_or_path") -> None:
        self.name_or_path, self.device = name_or_path, device
        self.prior = load_prior(name_or_path, device, vae_from=name_or_path, key=key)

    @torch.no_grad()
    def denoise(
        self, images: UInt8[Tensor, "N V 3 H W"], captions: list[str], seed: int
    ) -> UInt8[Tensor, "N V 3 H W"]:
        """x̂0 of the pictures for their object's caption, decoded; at one t for the V of an object.

        The seed is of the noise and of t. The result is on the pictures' device.
        """
        prior, schedule, n_view = self.prior, self.prior.schedule, images.shape[1]
        generator = torch.Generator(self.device).manual_seed(seed)
        low, high = (int(p * schedule.num_train_timesteps) for p in (MIN_PERCENT, MAX_PERCENT))
        t = torch.randint(low, high + 1, images.shape[:1], generator=generator, device=self.device)
        texts = embed_prompts(self.name_or_path, captions, self.device)
        chunk = max(1, (1024 if self.device.type == "cuda" else 64) // n_view)
        out = torch.empty_like(images)
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)  # the VAE's draws have no generator
            for rows in chunks(len(images), chunk, "denoising views"):
                text = texts[rows].repeat_interleave(n_view, dim=0)
                t_view = t[rows].repeat_interleave(n_view)
                x = prior.encode(images[rows].flatten(0, 1).to(self.device).float() / 255)
                eps = torch.randn(x.shape, generator=generator, device=self.device)
                x_t = schedule.add_noise(x, eps, t_view)
                x0 = schedule.denoise(x_t, prior.predict_noise(x_t, t_view, text), t_view)
                out[rows] = to_bytes(prior.decode(x0)).unflatten(0, (-1, n_view)).to(out.device)
        return out
