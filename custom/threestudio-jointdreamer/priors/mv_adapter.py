"""MV-Adapter (Huang et al. 2024, arXiv 2412.03632): a text-to-image UNet that sees several views.

Beside each self-attention of the UNet a second one, of its own weights, attends to the same row of
pixels in all views, and an encoder of the cameras' rays is added to what the UNet's down blocks
make. The UNet's weights stay as they are. Seen orthographically from level cameras, what stands in
one row of a view stands in that row of every view.
"""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin, T2IAdapter
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn

from ..weights.ldm.mv_adapter import RAY_NUMBERS, layer_name
from .fixed_views import places
from .latent_prior import LatentPrior
from .multiview import MultiviewPrior
from .schedule import NoiseSchedule

PART = "mv_adapter"  # the folder that `jointdreamer convert` makes
SNR_SHIFT = 8.0  # at the noisy end of the schedule it was trained with


class RowAttention(nn.Module):
    """A UNet's self-attention, plus one of its own over the same row of all views.

    The batch holds views of one object consecutively, `(N V) L D`, and L is a square's pixels.

    Attributes:
        n_view: V.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.n_view = 1
        self.to_q_mv, self.to_k_mv, self.to_v_mv = (
            nn.Linear(width, width, bias=False) for _ in range(3)
        )
        self.to_out_mv = nn.ModuleList([nn.Linear(width, width), nn.Dropout(0.0)])

    def forward(self, attn, x: Float[Tensor, "NV L D"], **unused) -> Float[Tensor, "NV L D"]:
        batch, length, width = x.shape
        side = round(length**0.5)

        def own(x: Tensor) -> Float[Tensor, "NV heads L d"]:
            return x.view(batch, length, attn.heads, -1).transpose(1, 2)

        def rows(x: Tensor) -> Float[Tensor, "N·side heads V·side d"]:
            x = x.view(-1, self.n_view, side, side, width).transpose(1, 2)
            x = x.reshape(-1, self.n_view * side, attn.heads, width // attn.heads)
            return x.transpose(1, 2)

        attend = F.scaled_dot_product_attention
        single = attend(own(attn.to_q(x)), own(attn.to_k(x)), own(attn.to_v(x)))
        single = single.transpose(1, 2).reshape(batch, length, width)
        joint = attend(rows(self.to_q_mv(x)), rows(self.to_k_mv(x)), rows(self.to_v_mv(x)))
        joint = joint.transpose(1, 2).reshape(-1, side, self.n_view, side, width).transpose(1, 2)
        joint = joint.reshape(batch, length, width)
        out = attn.to_out[1](attn.to_out[0](single)) + self.to_out_mv[0](joint)
        if attn.residual_connection:
            out = out + x
        return out / attn.rescale_output_factor


class MVAdapter(ModelMixin, ConfigMixin):
    """What MV-Adapter adds to a UNet.

    Args:
        layers: the width of each of the UNet's self-attention layers, by `layer_name`.
        channels: of the UNet's levels; SDXL's encoder has one more, of the middle.
        num_res_blocks: of each level of the encoder.
        downscale_factor: of the encoder's first level: 8 pixels, or 16 as SDXL's first block.
    """

    @register_to_config
    def __init__(
        self,
        layers: dict[str, int],
        channels: list[int],
        num_res_blocks: int = 2,
        downscale_factor: int = 8,
    ) -> None:
        super().__init__()
        self.attention = nn.ModuleDict(
            {name: RowAttention(width) for name, width in layers.items()}
        )
        self.encoder = T2IAdapter(
            in_channels=RAY_NUMBERS,
            channels=list(channels),
            num_res_blocks=num_res_blocks,
            downscale_factor=downscale_factor,
            adapter_type="full_adapter" if downscale_factor == 8 else "full_adapter_xl",
        )


class MVAdapterPrior(MultiviewPrior):
    """A 2D prior with its UNet made a multi-view one.

    Args:
        prior: of the model that the adapter was trained for; its UNet and schedule are changed.
        described: the config key and its value, for errors.
        tolerances: degrees that a view may be away from one of `AZIMUTHS`, and from level.

    Raises:
        ValueError: the adapter is for another UNet.
    """

    def __init__(
        self,
        prior: LatentPrior,
        described: str,
        adapter: MVAdapter,
        tolerances: tuple[float, float] = (15.0, 15.0),
    ) -> None:
        self.adapter, self.tolerances = adapter, tolerances
        super().__init__(prior, described)

    def _prepare(self, described: str) -> None:
        unet, config = self.prior.unet, self.adapter.config
        processors, channels = dict(unet.attn_processors), list(unet.config.block_out_channels)
        widths = {
            layer_name(name): unet.get_submodule(name.removesuffix(".processor")).inner_dim
            for name in processors
            if name.endswith("attn1.processor")
        }
        if (dict(config.layers), config.channels[: len(channels)]) != (widths, channels):
            raise ValueError(
                f"{described} is for a UNet of {len(config.layers)} self-attention layers and "
                f"channels {config.channels}, but energy.base_model_name_or_path has {len(widths)} "
                f"and {channels}: name the model that the adapter was trained for, Stable "
                "Diffusion 2.1 base or SDXL."
            )
        layers = self.adapter.attention
        for name in processors:
            if layer_name(name) in layers:
                processors[name] = layers[layer_name(name)]
        unet.set_attn_processor(processors)
        self.prior.schedule = shifted(self.prior.schedule)

    def _attend_across(self, n_view: int) -> None:
        for layer in self.adapter.attention.values():
            layer.n_view = n_view

    def _condition(self, c2w: Float[Tensor, "N V 4 4"]) -> dict[str, Any]:
        x, y, z = F.normalize(c2w[..., :3, 3], dim=-1).unbind(dim=-1)
        elevation, azimuth = z.clamp(-1, 1).asin().rad2deg(), torch.atan2(y, x).rad2deg()
        places(elevation, azimuth, *self.tolerances, "MV-Adapter", "the front")
        rays = camera_rays(c2w.flatten(0, 1)).to(self.prior.dtype)
        size = 8 * self.prior.latent_size  # pixels
        rays = rays[..., None, None].expand(-1, -1, size, size)
        return {"residuals": self.adapter.encoder(rays)}


def camera_rays(c2w: Float[Tensor, "B 4 4"]) -> Float[Tensor, "B 6"]:
    """An orthographic camera's direction and its position on the unit sphere, in [0, 1].

    All its rays have one direction. MV-Adapter's world is turned: its front is at azimuth -90.
    """
    ahead, position = -c2w[:, :3, 2], F.normalize(c2w[:, :3, 3], dim=1)
    x, y, z = torch.stack([ahead, position], dim=1).unbind(dim=-1)
    rays = torch.stack([y, -x, z], dim=-1).flatten(1)
    return ((rays + 1) / 2).clamp(0, 1)


def shifted(schedule: NoiseSchedule, shift: float = SNR_SHIFT) -> NoiseSchedule:
    """Of a signal-to-noise ratio divided by 1 at no noise, by `shift` at the most, log-linearly."""
    alpha_bar = schedule.alphas_cumprod.double()
    share = torch.linspace(0, 1, len(alpha_bar), device=alpha_bar.device, dtype=alpha_bar.dtype)
    snr = alpha_bar / (1 - alpha_bar) * shift**-share
    return NoiseSchedule((snr / (1 + snr)).to(schedule.alphas_cumprod), schedule.prediction_type)
