"""Zero-1-to-3: its UNet, conditioning and image encoder as threestudio has them, against ours.

Compared are the noise with and without the reference picture, from the pose to the output, and
CLIP's image encoder. The checkout needs einops and OpenAI's clip beside our own requirements.
"""

import importlib
import importlib.util
import warnings
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers import UNet2DConditionModel
from packaging import version
from threestudio_jointdreamer.priors.image_prior import Cameras, ImagePriorOptions, Reference
from threestudio_jointdreamer.priors.latent_prior import LatentPrior
from threestudio_jointdreamer.priors.schedule import NoiseSchedule
from threestudio_jointdreamer.priors.zero123 import CCProjection, Zero123
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from benchmarks.parity.checkouts import importing_from
from benchmarks.parity.ldm import converted, reference_unet
from benchmarks.parity.seeded import noise

ENVIRONMENT = "ZERO123_ROOT"  # a checkout of threestudio; THREESTUDIO_ROOT would choose the host
SOURCE = (
    "github.com/threestudio-project/threestudio at 28d9d80, "
    "extern/ldm_zero123 and zero123_guidance.py; "
    "github.com/openai/CLIP, clip/model.py"
)
SIZES = {
    "reduced": {
        "width": 32,
        "text": 24,
        "clip": {"width": 64, "layers": 3, "heads": 4, "input_resolution": 28},
    },
    "full": {
        "width": 320,
        "text": 768,
        "clip": {"width": 1024, "layers": 24, "heads": 16, "input_resolution": 224},
    },
}
CASES = ("zero123", "zero123-clip")
POSE, PATCH, TIMESTEP, SEED = 4, 14, 400, 31
# elevation and azimuth in degrees, distance: the reference first, then the views of one object
CAMERAS = [[5.0, 20.0, 1.5], [5.0, 110.0, 1.5], [35.0, 200.0, 1.9], [-10.0, 300.0, 1.2]]


def inputs(case: str, size: str) -> dict[str, Tensor]:
    """Noisy latents of 8x8 and the picture's embedding and latents; for the encoder, a picture."""
    if case == "zero123-clip":
        pixels = SIZES[size]["clip"]["input_resolution"]
        return {"sample": noise(f"{case}.sample", (2, 3, pixels, pixels), SEED)}
    return {
        "sample": noise(f"{case}.sample", (len(CAMERAS) - 1, 4, 8, 8), SEED),
        "embedding": noise(f"{case}.embedding", (1, SIZES[size]["text"]), SEED),
        "latents": noise(f"{case}.latents", (1, 4, 8, 8), SEED),
    }


class _Reference(nn.Module):
    """The checkout's UNet and projection under the names that a published file has for them."""

    def __init__(self, unet: nn.Module, text: int, guidance: type) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"diffusion_model": unet})
        self.cc_projection = nn.Linear(text + POSE, text)
        self.guidance = guidance


def build_reference(root: str | Path, case: str, size: str) -> nn.Module:
    """The checkout's UNetModel with its projection, or CLIP's VisionTransformer, in float64."""
    text = SIZES[size]["text"]
    if case == "zero123-clip":
        return _reference_clip(text, SIZES[size]["clip"])
    nothing = {"exists": lambda x: x is not None, "instantiate_from_config": None}
    with importing_from(root, stubs={"extern.ldm_zero123.util": nothing}):
        unet = reference_unet(
            "extern.ldm_zero123.modules.diffusionmodules",
            "UNetModel",
            in_channels=8,
            model_channels=SIZES[size]["width"],
            num_heads=8,
            context_dim=text,
        )
    return _Reference(unet, text, _guidance(root))


def run_reference(module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    if "latents" not in inputs:
        return module(inputs["sample"])
    (elevation, azimuth, distance), *_ = CAMERAS
    guidance = SimpleNamespace(
        cfg=SimpleNamespace(
            cond_elevation_deg=elevation,
            cond_azimuth_deg=azimuth,
            cond_camera_distance=distance,
        ),
        model=module,
        device=torch.device("cpu"),
        c_crossattn=inputs["embedding"][:, None],
        c_concat=inputs["latents"],
    )
    views = torch.tensor(CAMERAS[1:], dtype=torch.float64)
    condition = module.guidance.get_cond(guidance, *views.unbind(1))
    noisy = torch.cat([inputs["sample"]] * 2)
    return module.model["diffusion_model"](
        torch.cat([noisy, *condition["c_concat"]], dim=1),
        torch.full((len(noisy),), TIMESTEP),
        context=torch.cat(condition["c_crossattn"], dim=1),
    )


def build_ours(state_dict: dict[str, Tensor], case: str, size: str) -> nn.Module:
    """Converted as a checkpoint file of these weights would be."""
    if case == "zero123-clip":
        sizes = SIZES[size]["clip"]
        published = {f"cond_stage_model.model.visual.{k}": v for k, v in state_dict.items()}
        # a file is recognised by its UNet, of which one weight is enough here
        published["model.diffusion_model.input_blocks.0.0.weight"] = torch.empty(32, 8, 3, 3)
        published["model.diffusion_model.middle_block.1.proj_in.weight"] = torch.empty(32, 32, 1, 1)
        head_dim = sizes["width"] // sizes["heads"]
        kind = CLIPVisionModelWithProjection
        return converted(published, "image_encoder", kind, clip_head_dim=head_dim)
    return nn.ModuleDict(
        {
            "unet": converted(state_dict, "unet", UNet2DConditionModel),
            "cc_projection": converted(state_dict, "cc_projection", CCProjection),
        }
    )


def run_ours(module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    if "latents" not in inputs:
        return module(inputs["sample"]).image_embeds
    prior = LatentPrior(module["unet"], NoiseSchedule(torch.ones(1000)), condition_channels=4)
    zero123 = Zero123(prior, None, ImagePriorOptions(), cc_projection=module["cc_projection"])
    cameras = torch.tensor([CAMERAS], dtype=torch.float64)
    given, without = zero123.predict_noise(
        inputs["sample"][None],
        torch.tensor([TIMESTEP]),
        Reference(inputs["embedding"], inputs["latents"]),
        Cameras(views=cameras[:, 1:], reference=cameras[:, :1]),
        guided=True,
    )
    return torch.cat([without[0], given[0]])


def _reference_clip(text: int, sizes: dict[str, int]) -> nn.Module:
    found = importlib.util.find_spec("clip")
    if found is None:
        raise ImportError("OpenAI's clip, which Zero-1-to-3 is made with, is not installed.")
    with importing_from(Path(found.origin).parents[1], bare=["clip"]):
        clip = importlib.import_module("clip.model")
    clip.LayerNorm.forward = nn.LayerNorm.forward  # without its cast to float32
    return clip.VisionTransformer(patch_size=PATCH, output_dim=text, **sizes)


@cache
def _guidance(root: str | Path) -> type:
    """threestudio's own guidance, of whose class only the conditioning is used."""
    misc = vars(importlib.import_module("threestudio.utils.misc"))
    stubs = {"cv2": {}, "threestudio.utils.misc": {"parse_version": version.parse} | misc}
    imports = importing_from(root, bare=["threestudio.models.guidance"], stubs=stubs)
    with imports, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about names that PyTorch has changed since
        module = importlib.import_module("threestudio.models.guidance.zero123_guidance")
    return module.Zero123Guidance
