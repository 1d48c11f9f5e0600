"""Wonder3D's UNet: the stock UNet2DConditionModel with attention between two domains per block."""

from typing import Any

from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from jaxtyping import Float
from torch import Tensor, nn

from .multiview import CrossViewAttnProcessor

CAMERA_DIM = 10  # sine and cosine of five numbers, see wonder3d.py
PUBLISHED_CLASS = "UNetMV2DConditionModel"
STOCK_BLOCKS = {
    "CrossAttnDownBlockMV2D": "CrossAttnDownBlock2D",
    "UNetMidBlockMV2DCrossAttn": "UNetMidBlock2DCrossAttn",
    "CrossAttnUpBlockMV2D": "CrossAttnUpBlock2D",
}
# What the published config says beside a stock one's, and the only values that a model came with.
ATTENTION_FLAGS = {
    "multiview_attention": True,
    "sparse_mv_attention": False,
    "mvcd_attention": False,
    "cd_attention_last": False,
}


class CrossDomainAttnProcessor:
    """Self-attention of a picture's tokens over those of both domains, its normals and colours.

    The batch axis holds all pictures of one domain, then those of the other in the same order,
    `(2 B) L D`; picture b attends to the 2·L tokens of pictures b and B + b.
    """

    def __init__(self) -> None:
        self._over_pairs = CrossViewAttnProcessor(2)

    def __call__(
        self, attn: Attention, hidden_states: Float[Tensor, "2B L D"], **kwargs
    ) -> Float[Tensor, "2B L D"]:
        pairs = hidden_states.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)
        out = self._over_pairs(attn, pairs, **kwargs)
        return out.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1)


class CrossDomainBlock(nn.Module):
    """A stock transformer block with cross-domain attention after its self-attention.

    `cross_attention_kwargs={"cross_domain": False}` leaves the new layer out, which makes the UNet
    a model of one domain at a time.

    Args:
        block: gives its layers away.
    """

    def __init__(self, block: BasicTransformerBlock) -> None:
        super().__init__()
        attn = block.attn1
        self.norm1, self.attn1 = block.norm1, attn
        self.norm_joint_mid = nn.LayerNorm(attn.query_dim)
        self.attn_joint_mid = Attention(
            query_dim=attn.query_dim,
            heads=attn.heads,
            dim_head=attn.inner_dim // attn.heads,
            upcast_attention=attn.upcast_attention,
            processor=CrossDomainAttnProcessor(),
        )
        self.norm2, self.attn2 = block.norm2, block.attn2
        self.norm3, self.ff = block.norm3, block.ff

    def forward(
        self,
        hidden_states: Float[Tensor, "B L D"],
        attention_mask=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        cross_attention_kwargs=None,
        **_,
    ) -> Float[Tensor, "B L D"]:
        x = hidden_states
        x = x + self.attn1(self.norm1(x), attention_mask=attention_mask)
        if (cross_attention_kwargs or {}).get("cross_domain", True):
            x = x + self.attn_joint_mid(self.norm_joint_mid(x))
        x = x + self.attn2(self.norm2(x), encoder_hidden_states, encoder_attention_mask)
        return x + self.ff(self.norm3(x))


class Wonder3DUNet(UNet2DConditionModel):
    """Wonder3D's UNet (Long et al. 2023, arXiv 2310.15008), with the published names of weights.

    Made by `from_config`, from the published config.json or one that this class has saved.
    Attention over views is not set up here, but by `use_cross_view_attention`. A model of the
    first training stage (`cd_attention_mid: false`) has no cross-domain attention.
    """

    @classmethod
    def from_config(cls, config: dict[str, Any], **kwargs) -> "Wonder3DUNet":
        """A UNet for the published config, which also names what stock UNets lack.

        Raises:
            ValueError: an attention that no published model has, or a camera of another length.
        """
        extra = {
            name: config.get(name, value)
            for name, value in {"num_views": 6, "cd_attention_mid": True, **ATTENTION_FLAGS}.items()
        }
        config = {name: value for name, value in config.items() if name not in extra}
        for name, value in ATTENTION_FLAGS.items():
            if extra[name] != value:
                raise ValueError(
                    f"config.json has {name}={extra[name]}, a Wonder3D variant that is not "
                    f"supported. Use one with {name}={value}, as flamehaze1115/wonder3d-v1.0."
                )
        found = config.get("projection_class_embeddings_input_dim")
        if (config.get("class_embed_type"), found) != ("projection", CAMERA_DIM):
            raise ValueError(
                f"config.json has class_embed_type={config.get('class_embed_type')} with {found} "
                f"inputs, but Wonder3D's camera and domain are a projection of {CAMERA_DIM}. "
                "Use its joint model, as flamehaze1115/wonder3d-v1.0."
            )
        for name in ("down_block_types", "up_block_types"):
            if name in config:
                config[name] = [STOCK_BLOCKS.get(block, block) for block in config[name]]
        block = config.get("mid_block_type")
        config |= {"mid_block_type": STOCK_BLOCKS.get(block, block)} if block else {}
        unet = super().from_config(config, **kwargs)
        if extra["cd_attention_mid"]:
            _add_cross_domain_attention(unet)
        unet.register_to_config(**extra)
        return unet


def _add_cross_domain_attention(unet: UNet2DConditionModel) -> None:
    for transformer in [m for m in unet.modules() if isinstance(m, Transformer2DModel)]:
        blocks = transformer.transformer_blocks
        transformer.transformer_blocks = nn.ModuleList(CrossDomainBlock(b) for b in blocks)
