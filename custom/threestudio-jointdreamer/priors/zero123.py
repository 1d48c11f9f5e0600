"""Zero-1-to-3 (Liu et al. 2023, arXiv 2303.11328): any view of an object from one picture."""

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn

from .image_prior import Cameras, ImagePrior, Reference, register_image_prior, with_nothing
from .latent_prior import resize

POSE_DIM = 4


class CCProjection(ModelMixin, ConfigMixin):
    """A linear layer from CLIP's embedding and the relative pose back to CLIP's width."""

    @register_to_config
    def __init__(self, in_channel: int = 768 + POSE_DIM, out_channel: int = 768) -> None:
        super().__init__()
        self.projection = nn.Linear(in_channel, out_channel)

    def forward(self, x: Float[Tensor, "... K"]) -> Float[Tensor, "... D"]:
        return self.projection(x)


@register_image_prior
class Zero123(ImagePrior):
    """Predicts each view on its own from the reference and the relative pose.

    Made for white backgrounds. Stable Zero123, which has the same layers, is told the reference's
    polar angle in place of the distance, and is not served.

    Attributes:
        cc_projection: makes CLIP's embedding and the pose one token.
    """

    kind = "zero123"
    part_classes = {"cc_projection": CCProjection}
    cc_projection: CCProjection

    def token_width(self) -> int:
        return self.cc_projection.config.out_channel

    @staticmethod
    def recognises(unet_config: dict[str, Any]) -> bool:
        channels = (unet_config.get("in_channels"), unet_config.get("out_channels", 4))
        return channels == (8, 4) and unet_config.get("class_embed_type") is None

    def look_at(self, rgb: Float[Tensor, "N 3 H W"]) -> Reference:
        pixels = resize(rgb, self.prior.image_size)
        embedding = self._embed(pixels, align_corners=True, antialias=False)
        return Reference(embedding, self._mode(pixels))  # not scaled, as in its training

    def predict_noise(self, x_t, t, reference, cameras, guided):
        n_view = x_t.shape[1]
        embedding = reference.embedding.repeat_interleave(n_view, dim=0)
        latents = reference.latents.repeat_interleave(n_view, dim=0)
        seen = torch.cat([embedding, relative_pose(cameras).flatten(0, 1)], dim=1)
        token = self.cc_projection(seen.to(self.prior.dtype))[:, None]
        passes = 2 if guided else 1
        eps = self.prior.predict_noise(
            torch.cat([x_t.flatten(0, 1)] * passes),
            t.repeat_interleave(n_view).repeat(passes),
            with_nothing(token, guided),
            condition=with_nothing(latents, guided),
        )
        eps = eps.unflatten(0, (passes, *x_t.shape[:2]))
        return eps[0], (eps[1] if guided else None)


def relative_pose(cameras: Cameras) -> Float[Tensor, "N V 4"]:
    """Polar angle beyond the reference's, sine and cosine of the azimuth beyond it, distance too.

    Radians; the polar angle is counted from the top, so that a higher view has a negative one.
    """
    raised, _, farther = (cameras.views - cameras.reference).unbind(-1)
    azimuth = cameras.azimuth_offset.deg2rad()
    return torch.stack([-raised.deg2rad(), azimuth.sin(), azimuth.cos(), farther], dim=-1)
