"""Turns a stock UNet2DConditionModel into a multi-view one (MVDream, arXiv 2308.16512)."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor

from .latent_prior import LatentPrior

CAMERA_DIM = 16  # a flattened 4x4 camera-to-world matrix


class CrossViewAttnProcessor:
    """Self-attention over the tokens of all views of an object at once (MVDream's 3D attention).

    The batch axis holds views of one object consecutively, `(N V) L D`; tokens are regrouped to
    `N (V L) D` around plain scaled-dot-product attention, so the projection weights are those of
    the 2D layer. Only for self-attention; text cross-attention stays per view.

    Args:
        n_view: views per object, V.
    """

    def __init__(self, n_view: int) -> None:
        self.n_view = n_view

    def __call__(
        self,
        attn,
        hidden_states: Float[Tensor, "NV L D"],
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs,
    ) -> Float[Tensor, "NV L D"]:
        if encoder_hidden_states is not None or attention_mask is not None:
            raise ValueError("CrossViewAttnProcessor serves unmasked self-attention layers only.")
        batch, length, _ = hidden_states.shape
        if batch % self.n_view:
            raise ValueError(f"{batch} views do not divide into objects of n_view={self.n_view}.")
        objects, tokens = batch // self.n_view, self.n_view * length

        residual = hidden_states
        grouped = hidden_states.reshape(objects, tokens, -1)
        query, key, value = (
            project(grouped).view(objects, tokens, attn.heads, -1).transpose(1, 2)
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        out = F.scaled_dot_product_attention(query, key, value, scale=attn.scale)
        out = out.transpose(1, 2).reshape(batch, length, -1)
        out = attn.to_out[1](attn.to_out[0](out))
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor


def use_cross_view_attention(unet: UNet2DConditionModel, n_view: int) -> UNet2DConditionModel:
    """Gives every self-attention layer (`attn1`) of `unet` a `CrossViewAttnProcessor`, in place."""
    processor = CrossViewAttnProcessor(n_view)
    unet.set_attn_processor(
        {
            name: processor if name.endswith("attn1.processor") else current
            for name, current in unet.attn_processors.items()
        }
    )
    return unet


def camera_condition(c2w: Float[Tensor, "B 4 4"]) -> Float[Tensor, "B 16"]:
    """MVDream's camera vector: the c2w matrix with its translation on the unit sphere, flattened.

    The caller's tensor is never changed.
    """
    translation = F.normalize(c2w[:, :3, 3:], dim=1)
    camera = torch.cat([c2w[:, :3, :3], translation], dim=2)
    return torch.cat([camera, c2w[:, 3:]], dim=1).flatten(1)


class MultiviewPrior:
    """A multi-view model that denoises the views of an object in one call: MVDream.

    Args:
        prior: whose UNet has a projected camera as class embedding.
        described: the config key and its value, for errors.

    Raises:
        ValueError: the UNet has no camera embedding.
    """

    def __init__(self, prior: LatentPrior, described: str) -> None:
        self.prior = prior
        self._n_view: int | None = None
        self._prepare(described)

    def _prepare(self, described: str) -> None:
        config = self.prior.unet.config
        found = config.class_embed_type, config.projection_class_embeddings_input_dim
        if found != ("projection", CAMERA_DIM):
            raise ValueError(
                f"{described} holds no multi-view UNet: its config.json needs "
                f"class_embed_type=projection with {CAMERA_DIM} inputs, not {found[0]} with "
                f"{found[1]}."
            )

    def predict_noise(
        self,
        x_t: Float[Tensor, "N V C h w"],
        t: Int[Tensor, " N"],
        text_embeddings: Float[Tensor, "N V L D"],
        c2w: Float[Tensor, "N V 4 4"],
    ) -> Float[Tensor, "N V C h w"]:
        """ε of V views of each of N objects.

        Raises:
            ValueError: views that the model does not serve.
        """
        n_view = x_t.shape[1]
        if n_view != self._n_view:
            self._attend_across(n_view)
            if self.prior.graphs is not None:
                self.prior.graphs.clear()
            self._n_view = n_view
        eps = self.prior.predict_noise(
            x_t.flatten(0, 1),
            t.repeat_interleave(n_view),
            text_embeddings.flatten(0, 1),
            **self._condition(c2w),
        )
        return eps.unflatten(0, x_t.shape[:2])

    def _attend_across(self, n_view: int) -> None:
        use_cross_view_attention(self.prior.unet, n_view)

    def _condition(self, c2w: Float[Tensor, "N V 4 4"]) -> dict[str, Any]:
        """What the UNet is told of the cameras, as arguments of `LatentPrior.predict_noise`."""
        return {"class_labels": camera_condition(c2w.flatten(0, 1))}


def camera_ring(n_view: int, elevation_deg: float = 15.0) -> Float[Tensor, "V 4 4"]:
    """Camera-to-world matrices (OpenGL, z up) at distance 1, evenly around from azimuth 0."""
    azimuth = torch.arange(n_view) * (2 * math.pi / n_view)
    elevation = torch.full_like(azimuth, math.radians(elevation_deg))
    cos_a, sin_a, cos_e, sin_e = azimuth.cos(), azimuth.sin(), elevation.cos(), elevation.sin()
    back = torch.stack([cos_e * cos_a, cos_e * sin_a, sin_e], dim=-1)
    right = torch.stack([-sin_a, cos_a, torch.zeros_like(azimuth)], dim=-1)
    c2w = torch.eye(4).repeat(n_view, 1, 1)
    c2w[:, :3] = torch.stack([right, torch.linalg.cross(back, right), back, back], dim=-1)
    return c2w
