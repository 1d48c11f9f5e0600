"""SDXL (Podell et al. 2023, arXiv 2307.01952) and its fine-tunes as 2D priors."""

import torch
from jaxtyping import Float
from torch import Tensor

from .latent_prior import LatentPrior, split_pooled

PIXELS_PER_LATENT = 8


class StableDiffusionXL(LatentPrior):
    """A UNet that is told the picture's size, and the prompt by a pooled embedding too.

    The pooled embedding is the last token of the text embeddings, see `join_pooled`. The size, of
    the original, the crop's corner and the target, is the model's own, and nothing is cropped.
    """

    latent_space = "SDXL"

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        config, side = self.unet.config, self.latent_size * PIXELS_PER_LATENT
        self._size = torch.tensor([side, side, 0, 0, side, side], device=self.device)
        of_size = len(self._size) * config.addition_time_embed_dim
        self.pooled_dim: int = config.projection_class_embeddings_input_dim - of_size

    def _predict(
        self,
        sample: Float[Tensor, "B c h w"],
        time: Tensor,
        text: Float[Tensor, "B L D"],
        *more,
        **kw,
    ) -> Float[Tensor, "B C h w"]:
        text, pooled = split_pooled(text, self.pooled_dim)
        size = self._size.to(self.dtype).expand(len(sample), -1)
        added = {"text_embeds": pooled, "time_ids": size}
        return super()._predict(sample, time, text, *more, added_cond_kwargs=added, **kw)
