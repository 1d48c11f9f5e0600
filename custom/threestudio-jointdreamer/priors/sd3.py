"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206): rectified flow in an MMDiT."""

import torch
from diffusers import SD3Transformer2DModel
from jaxtyping import Float
from torch import Tensor

from .latent_prior import LatentPrior, split_pooled


class StableDiffusion3(LatentPrior):
    """A transformer that estimates a flow's velocity; its `schedule` is a `RectifiedFlow`.

    The pooled embedding is the last token of the text embeddings, see `join_pooled`.
    """

    latent_space = "Stable Diffusion 3"
    model_class = SD3Transformer2DModel
    part = "transformer"
    text_dim_key = "joint_attention_dim"
    half = torch.bfloat16  # its activations leave the range of fp16

    def _predict(
        self, sample: Float[Tensor, "B C h w"], time: Tensor, text: Float[Tensor, "B L D"], *_, **__
    ) -> Float[Tensor, "B C h w"]:
        text, pooled = split_pooled(text, self.unet.config.pooled_projection_dim)
        return self.unet(sample, text, pooled, time).sample
