"""What the energies share that look at pictures: x̂0 is decoded, and each becomes a vector."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..priors.gradient_range import within_half_range
from ..priors.image_embedding import load_image_embedding
from .base import Energy, Views

PROBE = 4  # latent pixels along an edge of what is decoded once to learn the VAE's factor


class DecodedEnergy(Energy):
    """An energy of what a model sees in the decoded x̂0 of each view.

    The gradient goes back through the model and through the VAE's decoder. A subclass sets
    `image_size`, in pixels, and says what the model sees (`see`).

    Config:
        decode_latent_size: latents are resized to this before they are decoded. By default to the
            smallest size that fills the model's pictures, 28 for 224 pixels; larger sizes are truer
            to the latents, and cost as many times more as they have pixels.
        half_precision_weights: the model in fp16 on a GPU.
        gradient_checkpointing: decodes and looks view by view, and once more in the backward pass:
            slower (6 times on an H200, where four views keep the GPU busier than one), but with
            the memory of one view: 0.6 instead of 2.4 GiB for four, of DINO ViT-S/16.
    """

    @dataclass
    class Config(Energy.Config):
        decode_latent_size: Annotated[int | None, "[1, inf)"] = None
        half_precision_weights: bool = True
        gradient_checkpointing: bool = False

    cfg: Config
    image_size: int
    _pixels_per_latent: float | None = None

    def see(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Of pictures in [0, 1], in single precision."""
        raise NotImplementedError

    def features(self, views: Views) -> Float[Tensor, "N V D"]:
        """What the model sees in each view, which is decoded once."""
        latent_size = self._latent_size(views)

        def see(latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D"]:
            return self.see(views.prior.decode(latents, latent_size))

        def see_one_by_one(latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D"]:
            seen = (
                checkpoint(see, view, use_reentrant=False, preserve_rng_state=False)
                for view in latents.split(1)
            )
            return torch.cat(list(seen))

        see_all = see_one_by_one if self.cfg.gradient_checkpointing else see
        features = within_half_range(see_all, views.denoised.flatten(0, 1))
        return features.unflatten(0, (views.n_object, views.n_view))

    def _latent_size(self, views: Views) -> int:
        if self.cfg.decode_latent_size is not None:
            return self.cfg.decode_latent_size
        if self._pixels_per_latent is None:
            with torch.no_grad():
                decoded = views.prior.decode(views.denoised[0, :1], PROBE)
            self._pixels_per_latent = decoded.shape[-1] / PROBE
        return math.ceil(self.image_size / self._pixels_per_latent)


class EmbeddingEnergy(DecodedEnergy):
    """What the model sees is an image embedding, a unit vector.

    Config, beside what `DecodedEnergy` says:
        pretrained_model_name_or_path: a CLIP or DINO, see `load_image_embedding`.
    """

    @dataclass
    class Config(DecodedEnergy.Config):
        pretrained_model_name_or_path: str = ""

    cfg: Config

    def configure(self) -> None:
        name, key = self.cfg.pretrained_model_name_or_path, "energy.pretrained_model_name_or_path"
        self.embed = load_image_embedding(name, self.device, self.cfg.half_precision_weights, key)
        self.image_size = self.embed.image_size

    def see(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        return self.embed(images)
