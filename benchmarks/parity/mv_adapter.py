"""MV-Adapter: huanngzh/MV-Adapter's attention processors and rays against ours, on SD 2.1 and SDXL.

Both sides change a stock UNet; SDXL's here has its layers, but not its second text embedding. The
checkout needs einops beside our own requirements. The cameras stand at right angles, where the
reference's single precision is exact.
"""

import importlib
from pathlib import Path

import torch
from diffusers import T2IAdapter, UNet2DConditionModel
from threestudio_jointdreamer.priors.latent_prior import LatentPrior
from threestudio_jointdreamer.priors.multiview import camera_ring
from threestudio_jointdreamer.priors.mv_adapter import MVAdapter, MVAdapterPrior
from threestudio_jointdreamer.priors.schedule import NoiseSchedule
from threestudio_jointdreamer.weights.ldm.mv_adapter import to_stock
from torch import Tensor, nn

from benchmarks.parity.checkouts import importing_from
from benchmarks.parity.seeded import noise

ENVIRONMENT = "MV_ADAPTER_ROOT"
SOURCE = "github.com/huanngzh/MV-Adapter at 4277e00, mvadapter/models and mvadapter/utils"
SIZES = {"reduced": {"width": 32, "text": 48}, "full": {"width": 320, "text": None}}
SD21 = {"attention_head_dim": (5, 10, 20, 20), "text": 1024}
SDXL = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "text": 2048,
}
CASES = {"mv-adapter-sd21": SD21, "mv-adapter-sdxl": SDXL}
N_VIEW, LATENTS, TOKENS, TIMESTEP, SEED = 4, 8, 5, 400, 40


def inputs(case: str, size: str) -> dict[str, Tensor]:
    """Noisy latents of 8x8 of four views, texts, and cameras 90 degrees apart."""
    text = SIZES[size]["text"] or CASES[case]["text"]
    return {
        "sample": noise(f"{case}.sample", (N_VIEW, 4, LATENTS, LATENTS), SEED),
        "timestep": torch.full((N_VIEW,), TIMESTEP),
        "text": noise(f"{case}.text", (N_VIEW, TOKENS, text), SEED),
        "c2w": camera_ring(N_VIEW, elevation_deg=0.0).round().double(),
    }


def _unet(case: str, size: str) -> UNet2DConditionModel:
    config = dict(CASES[case])
    widths = (1, 2, 4, 4)[: len(config["attention_head_dim"])]
    if size == "reduced":
        config["attention_head_dim"] = 2
        if "transformer_layers_per_block" in config:
            config["transformer_layers_per_block"] = (1, 1, 2)
    return UNet2DConditionModel(
        sample_size=LATENTS,
        block_out_channels=[SIZES[size]["width"] * width for width in widths],
        cross_attention_dim=SIZES[size]["text"] or config.pop("text"),
        use_linear_projection=True,
        **{name: value for name, value in config.items() if name != "text"},
    )


class _Reference(nn.Module):
    """A UNet with the checkout's processors, and the encoder of its rays."""

    def __init__(self, root: str | Path, case: str, size: str) -> None:
        super().__init__()
        with importing_from(root, bare=["mvadapter", "mvadapter.models", "mvadapter.utils"]):
            attention = importlib.import_module("mvadapter.models.attention_processor")
            geometry = importlib.import_module("mvadapter.utils.geometry")
        self.rays = geometry.get_plucker_embeds_from_cameras_ortho
        self.unet = _unet(case, size)

        def processor(name: str, width: int, *others, use_mv: bool) -> nn.Module:
            kind = attention.DecoupledMVRowSelfAttnProcessor2_0
            return kind(width, width, num_views=N_VIEW, name=name, use_mv=use_mv)

        attention.set_unet_2d_condition_attn_processor(
            self.unet,
            set_self_attn_proc_func=lambda *args: processor(*args, use_mv=True),
            set_cross_attn_proc_func=lambda *args: processor(*args, use_mv=False),
        )
        widths = [SIZES[size]["width"] * width for width in (1, 2, 4, 4)]
        xl = {"downscale_factor": 16, "adapter_type": "full_adapter_xl"}  # as its pipelines
        more = xl if case == "mv-adapter-sdxl" else {"downscale_factor": 8}
        self.cond_encoder = T2IAdapter(6, widths, num_res_blocks=2, **more)


def build_reference(root: str | Path, case: str, size: str) -> nn.Module:
    return _Reference(root, case, size).double()


def run_reference(module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    turned = torch.tensor([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    c2w = turned @ inputs["c2w"].float()  # azimuth_deg: x - 90, as its scripts have it
    control = ((module.rays(c2w, [1.1] * N_VIEW, 8 * LATENTS) + 1) / 2).clamp(0, 1)
    return module.unet(
        inputs["sample"],
        inputs["timestep"],
        encoder_hidden_states=inputs["text"],
        cross_attention_kwargs={"mv_scale": 1.0, "num_views": N_VIEW},
        down_intrablock_additional_residuals=module.cond_encoder(control.double()),
    ).sample


def build_ours(state_dict: dict[str, Tensor], case: str, size: str) -> nn.Module:
    """From the UNet's own weights, and the adapter's by the names of its published file."""
    published = {
        name.removeprefix("unet.").removeprefix("cond_encoder."): value
        for name, value in state_dict.items()
        if "_mv." in name or name.startswith("cond_encoder.")
    }
    config, weights = to_stock(published)
    unet, adapter = _unet(case, size).double(), MVAdapter.from_config(config).double()
    adapter.load_state_dict(weights)
    own = (name for name in state_dict if name.startswith("unet.") and "_mv." not in name)
    unet.load_state_dict({name.removeprefix("unet."): state_dict[name] for name in own})
    unet.adapter = adapter  # one module, which is cast and put into eval mode as a whole
    return unet


def run_ours(module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    schedule = NoiseSchedule(torch.linspace(0.999, 0.001, 1000))
    prior = MVAdapterPrior(LatentPrior(module, schedule), "ours", module.adapter)
    eps = prior.predict_noise(
        inputs["sample"][None], inputs["timestep"][:1], inputs["text"][None], inputs["c2w"][None]
    )
    return eps[0]
