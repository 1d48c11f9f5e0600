"""ImageDream: bytedance/ImageDream's multi-view UNet with image tokens against ours.

The checkout needs einops beside our own requirements. Both published models are compared: the one
whose views attend to a frame with the picture (`pixel`), and the one without (`local`).
"""

import io
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from threestudio_jointdreamer.priors.imagedream import ImageDream, ImagePrompt
from threestudio_jointdreamer.priors.imagedream_unet import ImageDreamUNet
from threestudio_jointdreamer.priors.latent_prior import LatentPrior
from threestudio_jointdreamer.priors.multiview import CAMERA_DIM, camera_condition
from threestudio_jointdreamer.priors.schedule import NoiseSchedule
from torch import Tensor, nn

from benchmarks.parity.checkouts import importing_from
from benchmarks.parity.ldm import converted, reference_unet
from benchmarks.parity.seeded import noise

ENVIRONMENT = "IMAGEDREAM_ROOT"
SOURCE = "github.com/bytedance/ImageDream at 26c3972, extern/ImageDream/imagedream/ldm"
SIZES = {
    "reduced": {"width": 32, "text": 64, "head_dim": 16, "objects": 2},
    "full": {"width": 320, "text": 1024, "head_dim": 64, "objects": 1},
}
CASES = {"imagedream": {"extra_frame": True}, "imagedream-local": {"extra_frame": False}}
N_VIEW, TOKENS, TIMESTEP, SEED = 4, 5, 400, 33
IMAGE_TOKENS, PATCHES, FEATURES = 16, 3, 1280
LAYERS = "imagedream.ldm.modules"


def inputs(case: str, size: str) -> dict[str, Tensor]:
    """Noisy latents of 8x8 of the views of two objects (one at full width), texts, cameras.

    And CLIP's features and the latents of their pictures; the first is also without a picture.
    """
    objects = SIZES[size]["objects"]
    keep = torch.tensor([0.0, 1.0][-objects:]).double().view(-1, 1, 1)
    image = {
        "hidden": keep * noise(f"{case}.hidden", (objects, PATCHES, FEATURES), SEED),
        "latents": keep[..., None] * noise(f"{case}.latents", (objects, 4, 8, 8), SEED),
    }
    return image | {
        "sample": noise(f"{case}.sample", (objects, N_VIEW, 4, 8, 8), SEED),
        "timestep": torch.full((objects,), TIMESTEP),
        "text": noise(f"{case}.text", (objects, N_VIEW, TOKENS, SIZES[size]["text"]), SEED),
        "c2w": noise(f"{case}.c2w", (objects, N_VIEW, 4, 4), SEED),
    }


def build_reference(root: str | Path, case: str, size: str) -> nn.Module:
    """The checkout's MultiViewUNetModel in float64 throughout."""
    talk = redirect_stdout(io.StringIO())  # of its layers about themselves
    ops = {"memory_efficient_attention": _attention}
    stubs = {"xformers": {"ops": SimpleNamespace(**ops)}, "xformers.ops": ops}
    folder = Path(root) / "extern" / "ImageDream"
    with talk, importing_from(folder, bare=["imagedream"], stubs=stubs):
        unet = reference_unet(
            f"{LAYERS}.diffusionmodules",
            "MultiViewUNetModel",
            in_channels=4,
            model_channels=SIZES[size]["width"],
            context_dim=SIZES[size]["text"],
            use_linear_in_transformer=True,
            camera_dim=CAMERA_DIM,
            num_head_channels=SIZES[size]["head_dim"],
            with_ip=True,
            ip_dim=IMAGE_TOKENS,
            ip_mode="local_resample",
        )
    unet.extra_frame = CASES[case]["extra_frame"]
    return unet


def run_reference(module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    objects, frames = len(inputs["sample"]), N_VIEW + module.extra_frame
    of_views = {name: inputs[name] for name in ("sample", "text")}
    camera = camera_condition(inputs["c2w"].flatten(0, 1)).unflatten(0, (objects, N_VIEW))
    image = {}
    if module.extra_frame:  # as its guidance appends it
        of_views["sample"] = F.pad(of_views["sample"], (0, 0, 0, 0, 0, 0, 0, 1))
        of_views["text"] = torch.cat([of_views["text"], of_views["text"][:, -1:]], dim=1)
        camera = F.pad(camera, (0, 0, 0, 1))
        image["ip_img"] = inputs["latents"]
    with patch.object(Tensor, "float", _as_float):
        eps = module(
            of_views["sample"].flatten(0, 1).clone(),  # into which it writes
            inputs["timestep"].repeat_interleave(frames),
            context=of_views["text"].flatten(0, 1),
            camera=camera.flatten(0, 1),
            num_frames=frames,
            ip=inputs["hidden"].repeat_interleave(frames, dim=0),
            **image,
        )
    return eps.unflatten(0, (objects, frames))[:, :N_VIEW]


def build_ours(state_dict: dict[str, Tensor], case: str, size: str) -> nn.Module:
    """Converted as a checkpoint file of these weights would be."""
    published = {f"model.diffusion_model.{name}": value for name, value in state_dict.items()}
    unet = converted(published, "unet", ImageDreamUNet, head_dim=SIZES[size]["head_dim"])
    unet.extra_frame = CASES[case]["extra_frame"]
    return unet


def run_ours(module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    prior = LatentPrior(module, NoiseSchedule(DDIMScheduler().alphas_cumprod))
    encoder = SimpleNamespace(config=SimpleNamespace(hidden_size=FEATURES))
    model = ImageDream(prior, "the converted model", encoder, module.extra_frame)
    image = ImagePrompt(inputs["hidden"], inputs["latents"])
    given = (inputs[name] for name in ("sample", "timestep", "text", "c2w"))
    return model.predict_noise(*given, image)


def _as_float(x: Tensor) -> Tensor:
    """`Tensor.float` without the cast from double, which the resampler's softmax has."""
    return x if x.is_floating_point() else x.to(torch.float32)


def _attention(query: Tensor, key: Tensor, value: Tensor, **_) -> Tensor:
    """xformers', which has no float64, in plain products."""
    scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
    return scores.softmax(dim=-1) @ value
