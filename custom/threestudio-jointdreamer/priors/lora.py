"""LoRA (Hu et al. 2021, arXiv 2106.09685) on a prior's UNet: W + scale · alpha / rank · B A.

diffusers reads the layouts in which LoRAs are published, its own and kohya's, and peft adds them.
"""

from pathlib import Path

from diffusers import UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.utils import is_peft_available

from ..weights.files import read_weights
from ..weights.names import find_local, resolve

FILE = "pytorch_lora_weights.safetensors"  # as diffusers names it in a folder
KEY = "system.guidance.lora_name_or_path"


def fuse_lora(unet: UNet2DConditionModel, name_or_path: str, scale: float, key: str = KEY) -> bool:
    """Adds a LoRA to the UNet's weights, in new tensors.

    Args:
        name_or_path: a file, here or on the hub, or a folder with `FILE`.
        scale: 1 is as it was trained.

    Returns:
        Whether it has a part for the text encoder too, which is left out.

    Raises:
        FileNotFoundError: there is no such file, here or on the hub.
        ValueError: peft is missing, the file is damaged, or not of this UNet.
    """
    described = f"{key}={name_or_path!r}"
    if not is_peft_available():
        raise ValueError(f'{described} needs peft: pip install "threestudio-jointdreamer[lora]".')
    try:
        weights = read_weights(_file(name_or_path, key))
        if any("dora_scale" in name for name in weights):
            raise ValueError("it is a DoRA, of which diffusers would leave a part out")
        weights, alphas = StableDiffusionLoraLoaderMixin.lora_state_dict(weights)
        wanted = [name for name in weights if name.startswith("unet.")]
        if not wanted:
            raise ValueError("it has no part for a UNet")
        StableDiffusionLoraLoaderMixin.load_lora_into_unet(weights, alphas, unet)
        added = sum(".lora_" in name for name, _ in unet.named_parameters())
        if added != len(wanted):
            raise ValueError(f"{len(wanted)} tensors are for the UNet, which has room for {added}")
        unet.fuse_lora(lora_scale=scale, safe_fusing=True)
    except FileNotFoundError:
        raise
    except (ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise ValueError(
            f"{described} is no LoRA of this prior's UNet ({reason}). Take one that was trained on "
            "the same family of models."
        ) from error
    unet.unload_lora()
    return len(wanted) < len(weights)


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
