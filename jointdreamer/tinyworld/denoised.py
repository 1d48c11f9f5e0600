"""Pictures as jsd-guidance's 2D prior denoises them in one step: what an energy gets to see."""

import torch
from jaxtyping import UInt8
from rich.progress import track
from threestudio_jointdreamer.priors.loading import load_prior
from threestudio_jointdreamer.prompts.text_encoder import embed_prompts
from torch import Tensor

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
        self,
        images: UInt8[Tensor, "N V 3 H W"],
        captions: list[str],
        seed: int,
    ) -> UInt8[Tensor, "N V 3 H W"]:
        """x̂0 of the pictures for their caption, decoded; at one t for the V of an object.

        Args:
            captions: one for each object.
            seed: of the noise and of t.

        Returns:
            Pictures of the same size, on their device.
        """
        n_view = images.shape[1]
        generator = torch.Generator(self.device).manual_seed(seed)
        count = self.prior.schedule.num_train_timesteps
        low, high = int(MIN_PERCENT * count), int(MAX_PERCENT * count)
        t = torch.randint(low, high + 1, images.shape[:1], generator=generator, device=self.device)
        texts = embed_prompts(self.name_or_path, captions, self.device)
        chunk = max(1, (1024 if self.device.type == "cuda" else 64) // n_view)
        out = torch.empty_like(images)
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)  # the VAE's draws have no generator
            starts = range(0, len(images), chunk)
            for start in track(starts, "denoising views", disable=len(images) < 512):
                rows = slice(start, start + chunk)
                text = texts[rows].repeat_interleave(n_view, dim=0)
                of_views = t[rows].repeat_interleave(n_view)
                x = self.prior.encode(images[rows].flatten(0, 1).to(self.device).float() / 255)
                eps = torch.randn(x.shape, generator=generator, device=self.device)
                x_t = self.prior.schedule.add_noise(x, eps, of_views)
                eps = self.prior.predict_noise(x_t, of_views, text)
                seen = self.prior.decode(self.prior.schedule.denoise(x_t, eps, of_views))
                seen = (seen * 255).round().to(torch.uint8)
                out[rows] = seen.unflatten(0, images[rows].shape[:2]).to(out.device)
        return out
