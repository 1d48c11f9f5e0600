"""LoRA (Hu et al. 2021, arXiv 2106.09685) on a prior's model: W + scale · alpha / rank · B A.

diffusers reads the layouts in which LoRAs are published, its own and kohya's, and peft adds them.
"""

from pathlib import Path

from diffusers import ModelMixin, SD3Transformer2DModel
from diffusers.loaders import (
    SD3LoraLoaderMixin,
    StableDiffusionLoraLoaderMixin,
    StableDiffusionXLLoraLoaderMixin,
)
from diffusers.utils import is_peft_available
from torch import Tensor

from ..weights.files import read_weights
from ..weights.names import find_local, resolve

FILE = "pytorch_lora_weights.safetensors"  # as diffusers names it in a folder
KEY = "system.guidance.lora_name_or_path"


def fuse_lora(model: ModelMixin, name_or_path: str, scale: float, key: str = KEY) -> bool:
    """Adds a LoRA to the weights of a UNet or transformer, in new tensors.

    Args:
        name_or_path: a file, here or on the hub, or a folder with `FILE`.
        scale: 1 is as it was trained.

    Returns:
        Whether it has a part for a text encoder too, which is left out.

    Raises:
        FileNotFoundError: there is no such file, here or on the hub.
        ValueError: peft is missing, the file is damaged, or not of this model.
    """
    described = f"{key}={name_or_path!r}"
    if not is_peft_available():
        raise ValueError(f'{described} needs peft: pip install "threestudio-jointdreamer[lora]".')
    part = "transformer" if isinstance(model, SD3Transformer2DModel) else "UNet"
    try:
        weights = read_weights(_file(name_or_path, key))
        if any("dora_scale" in name for name in weights):
            raise ValueError("it is a DoRA, of which diffusers would leave a part out")
        weights, alphas = _in_diffusers_names(weights, model)
        wanted = [name for name in weights if name.startswith(f"{part.lower()}.")]
        if not wanted:
            raise ValueError(f"it has no part for a {part}")
        if part == "UNet":
            StableDiffusionLoraLoaderMixin.load_lora_into_unet(weights, alphas, model)
        else:
            SD3LoraLoaderMixin.load_lora_into_transformer(weights, model)
        added = sum(".lora_" in name for name, _ in model.named_parameters())
        if added != len(wanted):
            raise ValueError(
                f"{len(wanted)} tensors are for the {part}, which has room for {added}"
            )
        model.fuse_lora(lora_scale=scale, safe_fusing=True)
    except FileNotFoundError:
        raise
    except (ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise ValueError(
            f"{described} is no LoRA of this prior's {part} ({reason}). Take one that was trained "
            "on the same family of models."
        ) from error
    model.unload_lora()
    return len(wanted) < len(weights)


def _in_diffusers_names(
    weights: dict[str, Tensor], model: ModelMixin
) -> tuple[dict[str, Tensor], dict[str, float] | None]:
    """Weights in any published layout by diffusers' names, and their alphas by layer."""
    if isinstance(model, SD3Transformer2DModel):
        return SD3LoraLoaderMixin.lora_state_dict(weights), None
    if model.config.addition_embed_type == "text_time":  # SDXL, whose blocks kohya counts its way
        config = model.config
        return StableDiffusionXLLoraLoaderMixin.lora_state_dict(weights, unet_config=config)[:2]
    return StableDiffusionLoraLoaderMixin.lora_state_dict(weights)[:2]


def _file(name_or_path: str, key: str) -> Path:
    """Where the file is, on this disk by now."""
    here = find_local(name_or_path)
    if here is not None:
        return here / FILE if here.is_dir() else here
    if Path(name_or_path).suffix != ".safetensors":
        raise FileNotFoundError(
            f"{key}={name_or_path!r}: there is no such file or folder. Of a repository on the hub "
            f"name the file, such as owner/name/{FILE}."
        )
    return resolve(name_or_path, key, [])
