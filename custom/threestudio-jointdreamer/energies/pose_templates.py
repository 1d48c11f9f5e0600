"""Pictures of a prompt's object in K poses, drawn from a diffusion prior and kept on disk."""

import hashlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ..files import replacing, user_cache
from ..priors.image_embedding import ImageEmbedding
from ..priors.latent_prior import LatentPrior
from ..priors.multiview import MultiviewPrior, camera_ring
from ..priors.sampling import ddim


@dataclass
class TemplateConfig:
    """How templates are drawn; see `PoseEnergy`."""

    n_pose: Annotated[int, "[2, inf)"] = 4
    template_samples: Annotated[int, "[1, inf)"] = 8
    template_guidance_scale: Annotated[float, "[0, inf)"] = 7.5
    template_steps: Annotated[int, "[1, inf)"] = 50
    template_seed: Annotated[int, "[0, inf)"] = 0
    cache_dir: str | None = None


class Templates:
    """R pictures of each of K poses for a prompt; from the disk where they have been drawn.

    Args:
        multiview: draws R objects, from K azimuths. Without it the 2D prior draws pictures, those
            that look least alike are the poses, and R is 1.
        embed: says what looks alike.
    """

    def __init__(
        self, cfg: TemplateConfig, multiview: MultiviewPrior | None, embed: ImageEmbedding
    ) -> None:
        self.cfg = TemplateConfig(**{f.name: cfg[f.name] for f in fields(TemplateConfig)})
        self.multiview, self.embed = multiview, embed
        self.folder = Path(cfg.cache_dir or user_cache("pose_templates")).expanduser()

    @torch.no_grad()
    def __call__(
        self, text: Float[Tensor, "L D"], uncond: Float[Tensor, "L D"], prior: LatentPrior
    ) -> Float[Tensor, "R K 3 H W"]:
        """In [0, 1]; no random state is touched.

        Args:
            text, uncond: embeddings of the prompt and of the empty or negative one.
            prior: the 2D prior, whose VAE also decodes what a model without one draws.
        """
        path, count = self._path(text, prior), self.cfg.n_pose
        if not path.is_file():
            pictures = self._draw(text, uncond, prior)
            if self.multiview is None:
                pictures = self.least_alike(pictures[:, 0])[None]
            rows, _, _, size, _ = pictures.shape
            grid = pictures.permute(0, 3, 1, 4, 2).reshape(rows * size, count * size, 3)
            with replacing(path) as new:
                Image.fromarray((grid * 255).round().byte().cpu().numpy()).save(new)
        grid = torch.from_numpy(np.array(Image.open(path))).to(text.device) / 255
        size = grid.shape[1] // count
        return grid.view(-1, size, count, size, 3).permute(0, 2, 4, 1, 3)

    def _draw(self, text: Tensor, uncond: Tensor, prior: LatentPrior) -> Float[Tensor, "S V 3 H W"]:
        multiview, samples = self.multiview, self.cfg.template_samples
        model, n_view = (prior, 1) if multiview is None else (multiview.prior, self.cfg.n_pose)
        prompts = torch.stack([text, uncond]).repeat_interleave(samples, dim=0)
        prompts = prompts[:, None].expand(-1, n_view, -1, -1)
        c2w = camera_ring(n_view).to(text.device).expand(2 * samples, -1, -1, -1)

        def denoise(x_t: Float[Tensor, "S V C h w"], t: Tensor) -> Tensor:
            x, t_both = torch.cat([x_t, x_t]), torch.cat([t, t])
            if multiview is None:
                eps = prior.predict_noise(x[:, 0], t_both, prompts[:, 0])[:, None]
            else:
                eps = multiview.predict_noise(x, t_both, prompts, c2w)
            eps_text, eps_uncond = eps.chunk(2)
            eps = eps_uncond + self.cfg.template_guidance_scale * (eps_text - eps_uncond)
            return model.schedule.denoise(x_t, eps, t)

        shape = samples, n_view, model.latent_channels, *[model.latent_size] * 2
        generator = torch.Generator().manual_seed(self.cfg.template_seed)
        x_t = torch.randn(shape, generator=generator).to(text.device)
        t = torch.full((samples,), model.schedule.num_train_timesteps - 1, device=text.device)
        latents = ddim(model.schedule, denoise, x_t, t, self.cfg.template_steps)
        vae = prior if model.vae is None else model
        return vae.decode(latents.flatten(0, 1)).unflatten(0, (samples, n_view))

    def least_alike(self, pictures: Float[Tensor, "S 3 H W"]) -> Float[Tensor, "K 3 H W"]:
        """The most usual one, then always the one that is farthest from all before it."""
        if len(pictures) < self.cfg.n_pose:
            raise ValueError(
                f"energy.template_samples={len(pictures)} are too few to choose energy.n_pose="
                f"{self.cfg.n_pose} from: draw more."
            )
        f = self.embed(pictures)
        cosine = f @ f.T
        chosen = [int(cosine.sum(dim=1).argmax())]
        while len(chosen) < self.cfg.n_pose:
            chosen.append(int(cosine[chosen].amax(dim=0).argmin()))
        return pictures[chosen]

    def _path(self, text: Tensor, prior: LatentPrior) -> Path:
        """By settings, the beginnings of the models' weights, and the prompt.

        Not by the negative one, which may change in the middle of a run.
        """
        drawing = prior if self.multiview is None else self.multiview.prior
        models = [drawing.unet, *(m.vae for m in (prior, drawing) if m.vae is not None)]
        tensors = [t.flatten()[:16] for model in models for t in model.state_dict().values()]
        settings = asdict(self.cfg) | {"cache_dir": None, "dtype": str(drawing.dtype)}
        digest = hashlib.sha256(repr(settings).encode())
        for tensor in (*tensors, text.flatten()):
            digest.update(tensor.float().cpu().numpy().tobytes())
        return self.folder / f"{digest.hexdigest()[:32]}.png"
