"""The authors' guidance as a guidance of threestudio's, to be timed.

JOINTDREAMER_ROOT names the checkout, of github.com/chanyn/JointDreamer at 8cca276. MVDream has
random weights in single precision and runs under autocast, as they run it. In threestudio with
tiny-cuda-nn and nerfacc (THREESTUDIO_ROOT) a step of `jointdreamer-system` with this guidance is a
step of theirs: their renderer, geometry and losses are threestudio's own.
"""

import os
from typing import Any

import torch

CHECKOUT = "JOINTDREAMER_ROOT"
TYPE = "authors-guidance"
STEP = 1000  # of theirs, with the energy


def build(prior: str, views: int, device: torch.device) -> Any:
    """Theirs, with the Stable Diffusion in the folder `prior`."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    from benchmarks.parity.authors import Authors, Case

    dtype = torch.float16 if device.type == "cuda" else torch.float32
    unet, vae = (
        model.from_pretrained(prior, subfolder=part, torch_dtype=dtype)
        .to(device)
        .eval()
        .requires_grad_(False)
        for model, part in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae"))
    )
    scheduler = DDIMScheduler.from_pretrained(prior, subfolder="scheduler")
    authors = Authors(os.environ[CHECKOUT], exact=False)
    return authors.guidance(unet, vae, scheduler, Case("", STEP, views, t=500))


class AuthorsGuidance:
    """Takes the block of `jsd-guidance`; the energy is on while the schedule of its weight is."""

    def __init__(self, cfg: Any) -> None:
        from threestudio.utils.misc import get_device
        from threestudio_jointdreamer.step_schedule import StepSchedule

        prior = cfg["pretrained_model_name_or_path"]
        self.guidance = build(prior, cfg["n_view"], torch.device(get_device()))
        self.weight = StepSchedule(cfg["energy_weight"], "energy_weight")
        self.calls = 0

    def __call__(self, rgb: torch.Tensor, prompt_utils: Any, **batch: Any) -> dict[str, Any]:
        step = STEP if self.weight(0, self.calls) > 0 else 0
        self.calls += 1
        return self.guidance(rgb, prompt_utils, **batch, global_step=step)
