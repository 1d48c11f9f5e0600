"""ImageDream's UNet: MVDream's, with an IP-Adapter that shows it a picture of the object."""

from collections.abc import Mapping
from typing import Any

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from jaxtyping import Float, Int
from torch import Tensor

PROJECTION = "image_projection"  # of config.json: the arguments of diffusers' projection


class ImageDreamUNet(UNet2DConditionModel):
    """MVDream's UNet with an IP-Adapter Plus: every cross-attention also looks at image tokens.

    Made by `from_config`, from the config of a stock UNet and one entry more, `image_projection`:
    the arguments of the resampler that makes the tokens, an `IPAdapterPlusImageProjection`.
    """

    @classmethod
    def from_config(cls, config: dict[str, Any], **kwargs) -> "ImageDreamUNet":
        projection = dict(config[PROJECTION])
        stock = {name: value for name, value in config.items() if name != PROJECTION}
        unet = super().from_config(stock, **kwargs)
        unet.encoder_hid_proj = IPAdapterPlusImageProjection(**projection)
        unet.register_to_config(image_projection=projection)
        tokens = (projection["num_queries"],)
        processors = dict(unet.attn_processors)
        for name, layer in unet.named_modules():
            if name.endswith(".attn2"):
                width = layer.inner_dim, layer.cross_attention_dim
                processors[f"{name}.processor"] = IPAdapterAttnProcessor2_0(*width, tokens)
        unet.set_attn_processor(processors)
        return unet

    def forward(
        self,
        sample: Float[Tensor, "B C h w"],
        timestep: Int[Tensor, " B"],
        encoder_hidden_states: Float[Tensor, "B L D"],
        **kwargs,
    ):
        """As the stock UNet's; the last of the L tokens are the image's."""
        count = self.config.image_projection["num_queries"]
        text, image = encoder_hidden_states.tensor_split([-count], dim=1)
        return super().forward(sample, timestep, (text, [image]), **kwargs)


def multiview_unet_class(config: Mapping[str, Any]) -> type[UNet2DConditionModel]:
    """ImageDream's if the config names its image tokens, else the stock one, which is MVDream's."""
    return ImageDreamUNet if PROJECTION in config else UNet2DConditionModel
