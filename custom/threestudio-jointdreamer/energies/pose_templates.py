"""Pictures of a prompt's object in K poses, drawn from a diffusion prior and kept on disk."""

import hashlib
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ..files import replacing, user_cache
from ..priors.latent_prior import LatentPrior
from ..priors.multiview import MultiviewPrior, camera_ring
from ..priors.sampling import ddim

Embed = Callable[[Float[Tensor, "B 3 H W"]], Float[Tensor, "B D"]]


@dataclass(frozen=True)
class Templates:
    """How templates are drawn; see `PoseEnergy`."""

    n_pose: int
    samples: int
    guidance_scale: float
    steps: int
    seed: int
    cache_dir: str | None = None

    @property
    def folder(self) -> Path:
        return Path(self.cache_dir or user_cache("pose_templates")).expanduser()

    @torch.no_grad()
    def __call__(
        self,
        text: Float[Tensor, "L D"],
        uncond: Float[Tensor, "L D"],
        prior: LatentPrior,
        multiview: MultiviewPrior | None,
        embed: Embed,
    ) -> Float[Tensor, "R K 3 H W"]:
        """R pictures of each of K poses, in [0, 1]; from the disk where they have been drawn.

        No random state is touched.

        Args:
            text, uncond: embeddings of the prompt and of the empty or negative one.
            prior: the 2D prior, whose VAE also decodes what a model without one draws.
            multiview: draws R objects, from K azimuths; without it the 2D prior draws, and R is 1.
            embed: the pictures that it finds least alike are the poses.
        """
        path = self._path(text, prior, multiview)
        if path.is_file():
            grid = np.asarray(Image.open(path))
            size = grid.shape[1] // self.n_pose
            pictures = grid.reshape(-1, size, self.n_pose, size, 3).transpose(0, 2, 4, 1, 3)
            return torch.from_numpy(pictures / np.float32(255)).to(text.device)
        if multiview is None:

            def of_prior(x_t: Tensor, t: Tensor, prompts: Tensor) -> Tensor:
                eps = prior.predict_noise(x_t.flatten(0, 1), t, prompts.flatten(0, 1))
                return eps.unflatten(0, x_t.shape[:2])

            latents = self._draw(prior, of_prior, 1, text, uncond)[:, 0]
            pictures = self.least_alike(prior.decode(latents), embed)[None]
        else:
            ring = camera_ring(self.n_pose).to(text.device)

            def of_views(x_t: Tensor, t: Tensor, prompts: Tensor) -> Tensor:
                c2w = ring.expand(len(x_t), -1, -1, -1)
                return multiview.predict_noise(x_t, t, prompts, c2w)

            latents = self._draw(multiview.prior, of_views, self.n_pose, text, uncond)
            vae = multiview.prior if multiview.prior.vae is not None else prior
            pictures = vae.decode(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])
        pictures = (pictures * 255).round().to(torch.uint8)  # as they will be read
        rows, poses, _, size, _ = pictures.shape
        grid = pictures.permute(0, 3, 1, 4, 2).reshape(rows * size, poses * size, 3)
        with replacing(path) as new:
            Image.fromarray(grid.cpu().numpy()).save(new)
        return pictures / 255.0

    def _draw(
        self,
        prior: LatentPrior,
        predict_noise: Callable[[Tensor, Tensor, Tensor], Tensor],
        n_view: int,
        text: Float[Tensor, "L D"],
        uncond: Float[Tensor, "L D"],
    ) -> Float[Tensor, "S V C h w"]:
        """Clean latents of all samples, V views each.

        Args:
            predict_noise: x_t [N V C h w], t [N] and embeddings [N V L D] to ε.
        """
        schedule, size = prior.schedule, prior.latent_size
        prompts = torch.stack([text, uncond])[:, None].expand(-1, n_view, -1, -1)
        prompts = prompts.repeat_interleave(self.samples, dim=0)

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            eps = predict_noise(torch.cat([x_t, x_t]), torch.cat([t, t]), prompts)
            eps_text, eps_uncond = eps.chunk(2)
            eps = eps_uncond + self.guidance_scale * (eps_text - eps_uncond)
            return schedule.denoise(x_t, eps, t)

        shape = self.samples, n_view, prior.latent_channels, size, size
        x_t = torch.randn(shape, generator=torch.Generator().manual_seed(self.seed))
        t = torch.full((self.samples,), schedule.num_train_timesteps - 1, device=prior.device)
        return ddim(schedule, denoise, x_t.to(prior.device), t, self.steps)

    def least_alike(
        self, pictures: Float[Tensor, "S 3 H W"], embed: Embed
    ) -> Float[Tensor, "K 3 H W"]:
        """The most usual one, then always the one that is farthest from all before it."""
        if len(pictures) < self.n_pose:
            raise ValueError(
                f"energy.template_samples={self.samples} are too few to choose energy.n_pose="
                f"{self.n_pose} from: draw more."
            )
        f = embed(pictures)
        cosine = f @ f.T
        chosen = [int(cosine.sum(dim=1).argmax())]
        while len(chosen) < self.n_pose:
            chosen.append(int(cosine[chosen].amax(dim=0).argmin()))
        return pictures[chosen]

    def _path(self, text: Tensor, prior: LatentPrior, multiview: MultiviewPrior | None) -> Path:
        """By what decides what is drawn: models by the beginnings of their weights, and the prompt.

        Not by the negative prompt, which may change in the middle of a run.
        """
        drawing = prior if multiview is None else multiview.prior
        models = [drawing.unet, *(m.vae for m in (prior, drawing) if m.vae is not None)]
        tensors = [t.flatten()[:16] for model in models for t in model.state_dict().values()]
        digest = hashlib.sha256(repr((astuple(self)[:-1], drawing.dtype)).encode())
        for tensor in (*tensors, text.flatten()):
            digest.update(tensor.float().cpu().numpy().tobytes())
        return self.folder / f"{digest.hexdigest()[:32]}.png"
