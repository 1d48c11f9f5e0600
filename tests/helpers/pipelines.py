"""Random priors as threestudio's own guidance wants them: whole pipelines of SD's image sizes.

threestudio 0.2.3 always makes 512x512 pictures and 64x64 latents, so its Stable Diffusion has a VAE
of factor 8; MVDream's latents are 32x32.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from helpers.full_size import build_small_mvdream, build_small_stable_diffusion

from jointdreamer.testing.random_priors import build_full_size

PARTS = {
    "scheduler": ("diffusers", "DDIMScheduler"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "PreTrainedTokenizerFast"),
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
}
ABSENT = ("feature_extractor", "image_encoder", "safety_checker")


@dataclass
class Pipelines:
    """Folders of the two priors.

    Attributes:
        size: `reduced`: all blocks at a tenth of the width; `full`: the published architectures.
    """

    size: str
    stable_diffusion: Path
    mvdream: Path


def build_pipelines(folder: Path, size: str = "reduced") -> Pipelines:
    """Writes both; text encoder and tokenizer are small ones in either size."""
    made = Pipelines(size, folder / "stable-diffusion", folder / "mvdream")
    if size == "full":
        build_full_size(made.stable_diffusion, seed=0)
        build_full_size(made.mvdream, seed=1, multiview=True)
    elif size == "reduced":
        build_small_stable_diffusion(made.stable_diffusion, latent_size=64)
        build_small_mvdream(made.mvdream, latent_size=32)
    else:
        raise ValueError(f"size={size!r}: use reduced or full.")
    index = {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False}
    index |= {name: [None, None] for name in ABSENT} | PARTS
    (made.stable_diffusion / "model_index.json").write_text(json.dumps(index))
    return made
