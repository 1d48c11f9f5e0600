"""Original checkpoints, as their authors published them, as stock configs and state dicts.

An original is a file in the layout of LDM (MVDream, Stable Diffusion 1 and 2, Zero-1-to-3), or a
folder in diffusers' layout with something of LDM in it, as those that people publish of MVDream.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..files import SUFFIXES
from ..state_dicts import check_names, misshapen
from . import clip as openai_clip
from . import unet as ldm_unet
from . import vae as ldm_vae
from .checkpoint import (
    MVDREAM,
    SD1,
    SD2,
    VAE,
    ZERO123,
    Checkpoint,
    open_file,
)
from .folders import (
    has_camera_folder,
    has_camera_projection,
    has_ldm_unet,
    open_folder,
    read_unet_with_camera,
)
from .schedule import scheduler_config

PARTS = ("unet", "vae", "scheduler", "image_encoder", "cc_projection")
LATENTS = {MVDREAM: 32, ZERO123: 32, SD1: 64, SD2: 64, VAE: 64}  # sides they were trained on
SD2_V_LATENTS = 96  # of Stable Diffusion 2's v-predicting models, for pictures of 768 pixels
INPUTS = {MVDREAM: 4, ZERO123: 8, SD1: 4, SD2: 4}  # channels; others inpaint, or see depth
POSE_NUMBERS = 4  # that Zero-1-to-3 appends to the image embedding


@dataclass(frozen=True)
class Hints:
    """What weights do not tell; None means what the published models have.

    Attributes:
        prediction_type: `epsilon` or `v_prediction`; Stable Diffusion 2 comes with both.
        num_heads, head_dim: of the UNet's attention layers, their number or their width.
        clip_head_dim: width of the image encoder's attention heads.
        ema: take the averaged weights of the UNet where the file has both.
    """

    prediction_type: str | None = None
    num_heads: int | None = None
    head_dim: int | None = None
    clip_head_dim: int | None = None
    ema: bool = True


def is_original(path: Path, part: str) -> bool:
    """Whether `part` of a model has to be read with `read_original`.

    Args:
        path: a checkpoint file, or a model's folder (that holds `unet/` and so on).
        part: one of `PARTS`.
    """
    path = Path(path)
    if path.is_file():
        return path.suffix.lower() in SUFFIXES
    if part == "unet":
        return has_ldm_unet(path) or has_camera_folder(path)
    return part == "cc_projection" and has_camera_projection(path)


def read_original(
    path: Path, part: str, hints: Hints | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """One part of an original checkpoint as a stock config and state dict.

    Args:
        path: a checkpoint file, or a folder for which `is_original` holds.
        part: `unet`, `vae` and `scheduler` (diffusers), `image_encoder` (transformers'
            CLIPVisionModelWithProjection), `cc_projection` (a linear layer called `projection`).

    Returns:
        The config and the weights under the stock class's names, memory-mapped where the file
        allows it; no weights for the scheduler.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, is no known checkpoint, has no such part, its weights
            are missing, surplus or misshapen, or what it predicts is not known.
    """
    path, hints = Path(path), hints or Hints()
    if path.is_dir() and part == "unet" and has_camera_folder(path):
        return read_unet_with_camera(path)
    return convert_part(open_original(path, hints), part, hints)


def open_original(path: Path, hints: Hints | None = None) -> Checkpoint:
    """Reads a checkpoint and sorts its weights; raises as `read_original`."""
    path = Path(path)
    return open_folder(path) if path.is_dir() else open_file(path, (hints or Hints()).ema)


def available_parts(checkpoint: Checkpoint) -> list[str]:
    """The parts that `convert_part` can give; a UNet's schedule is known without buffers."""
    has = {*checkpoint.parts, "scheduler"} if "unet" in checkpoint.parts else {*checkpoint.parts}
    return [part for part in PARTS if part in has]


def convert_part(
    checkpoint: Checkpoint, part: str, hints: Hints | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """`read_original` of a checkpoint that is open already."""
    hints = hints or Hints()
    available = available_parts(checkpoint)
    if part not in available:
        raise ValueError(
            f"{checkpoint.source} ({checkpoint.described}) has no {part}, only "
            f"{', '.join(available)}. Point the key to a model that has one."
        )
    if part in ("unet", "scheduler"):
        hints = replace(hints, prediction_type=prediction_type(checkpoint, hints))
    try:
        return _CONVERTERS[part](checkpoint, hints)
    except (KeyError, ValueError) as error:
        reason = f"missing {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{checkpoint.source} was taken for {checkpoint.described}, but does not fit as "
            f"{part}: {reason}."
        ) from error


def prediction_type(checkpoint: Checkpoint, hints: Hints) -> str:
    """What the UNet predicts: given, or known of its kind.

    Raises:
        ValueError: Stable Diffusion 2, which comes with both, and nothing is given.
    """
    if hints.prediction_type is None and checkpoint.kind == SD2:
        raise ValueError(
            f"{checkpoint.source} is Stable Diffusion 2, and whether it predicts the noise "
            "(512-base) or v (768) cannot be seen in the file: run jointdreamer convert "
            f"{checkpoint.source} FOLDER --prediction-type epsilon (or v_prediction) and use that "
            "folder."
        )
    return hints.prediction_type or "epsilon"


def _unet(checkpoint: Checkpoint, hints: Hints) -> tuple[dict, dict]:
    weights = checkpoint.parts["unet"]
    channels = weights["input_blocks.0.0.weight"].shape[1]
    if channels != INPUTS[checkpoint.kind]:
        raise ValueError(
            f"it takes {channels} channels instead of {INPUTS[checkpoint.kind]}, as models that "
            "inpaint or look at depth do, which cannot be used here"
        )
    config = ldm_unet.unet_config(
        weights,
        _latent_size(checkpoint, hints.prediction_type),
        hints.num_heads or checkpoint.num_heads,
        hints.head_dim or checkpoint.head_dim,
    )
    return config, ldm_unet.convert_unet(weights, config)


def _vae(checkpoint: Checkpoint, hints: Hints) -> tuple[dict, dict]:
    weights = checkpoint.parts["vae"]
    config = ldm_vae.vae_config(weights)
    factor = 2 ** (len(config["block_out_channels"]) - 1)
    config["sample_size"] = factor * _latent_size(checkpoint, hints.prediction_type)
    if "scale_factor" in checkpoint.schedule:
        config["scaling_factor"] = float(f"{checkpoint.schedule['scale_factor'].item():.6g}")
    return config, ldm_vae.convert_vae(weights, config)


def _scheduler(checkpoint: Checkpoint, hints: Hints) -> tuple[dict, dict]:
    return scheduler_config(checkpoint.schedule, hints.prediction_type), {}


def _image_encoder(checkpoint: Checkpoint, hints: Hints) -> tuple[dict, dict]:
    weights = checkpoint.parts["image_encoder"]
    config = openai_clip.clip_config(weights, hints.clip_head_dim)
    return config, openai_clip.convert_clip(weights, config)


def _cc_projection(checkpoint: Checkpoint, hints: Hints) -> tuple[dict, dict]:
    weights = checkpoint.parts["cc_projection"]
    out_channel, in_channel = weights["weight"].shape
    wanted = {"weight": (in_channel - POSE_NUMBERS, in_channel), "bias": (out_channel,)}
    check_names(
        missing=wanted.keys() - weights.keys(),
        surplus=weights.keys() - wanted.keys(),
        misshapen=misshapen(weights, wanted),
    )
    config = {"in_channel": in_channel, "out_channel": out_channel}
    return config, {f"projection.{name}": tensor for name, tensor in weights.items()}


def _latent_size(checkpoint: Checkpoint, prediction: str | None) -> int:
    v_predicting = checkpoint.kind == SD2 and prediction == "v_prediction"
    return SD2_V_LATENTS if v_predicting else LATENTS[checkpoint.kind]


_CONVERTERS = {
    "unet": _unet,
    "vae": _vae,
    "scheduler": _scheduler,
    "image_encoder": _image_encoder,
    "cc_projection": _cc_projection,
}
