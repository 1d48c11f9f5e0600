"""Folders that people publish in diffusers' layout, with a part in them that is not diffusers'."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from ..files import read_weights
from ..folders import choose_weights
from .checkpoint import Checkpoint, kind_of, sections_of

LDM_CLASS = "MultiViewUNet"  # the beginning of the class name of MVDream's own UNets
CAMERA_FOLDER = "camera_proj"  # a camera embedding beside a stock UNet, MVDream too
CC_FOLDER = "clip_camera_projection"  # Zero123-XL's name of cc_projection
SIDE_FOLDERS = {"unet": CAMERA_FOLDER, "cc_projection": CC_FOLDER}


def has_ldm_unet(folder: Path) -> bool:
    """Whether a model's folder holds MVDream's UNet as a class of its own, not diffusers'."""
    return str(_config(folder / "unet").get("_class_name")).startswith(LDM_CLASS)


def has_camera_folder(folder: Path) -> bool:
    """Whether a stock UNet's camera embedding lies in a folder of its own."""
    return (folder / "unet").is_dir() and (folder / CAMERA_FOLDER).is_dir()


def has_camera_projection(folder: Path) -> bool:
    """Whether a folder calls Zero-1-to-3's `cc_projection` by the name of Zero123-XL's."""
    return not (folder / "cc_projection").is_dir() and (folder / CC_FOLDER).is_dir()


def open_folder(path: Path) -> Checkpoint:
    """Reads what is LDM's, or has another name, in a folder.

    Raises:
        FileNotFoundError: the weights are missing.
        ValueError: they cannot be read, or are not LDM's after all.
    """
    parts, config = {}, {}
    if has_ldm_unet(path):
        config = _config(path / "unet")
        parts |= sections_of(_weights(path / "unet"), path / "unet")
    if has_camera_projection(path):
        weights = _weights(path / CC_FOLDER)
        parts["cc_projection"] = {name.removeprefix("proj."): t for name, t in weights.items()}
    return Checkpoint(
        path,
        kind_of(parts),
        parts,
        num_heads=_given(config.get("num_heads")),
        head_dim=_given(config.get("num_head_channels")),
    )


def read_unet_with_camera(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A stock UNet with the camera embedding beside it as its class embedding.

    Both are a linear layer, SiLU and a linear layer, and are added to the time embedding.

    Raises:
        FileNotFoundError: weights are missing.
        ValueError: they cannot be read, or the camera's are not two layers.
    """
    camera = _weights(path / CAMERA_FOLDER)
    if "linear_1.weight" not in camera:
        raise ValueError(
            f"{path / CAMERA_FOLDER} is no camera embedding of two linear layers: it has no "
            "linear_1.weight. Download the folder again, or use MVDream's original file."
        )
    config = _config(path / "unet") | {
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": camera["linear_1.weight"].shape[1],
    }
    weights = _weights(path / "unet")
    return config, weights | {f"class_embedding.{name}": t for name, t in camera.items()}


def _weights(folder: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for name in choose_weights((file.name for file in folder.iterdir()), half=False):
        weights |= read_weights(folder / name)
    if not weights:
        raise FileNotFoundError(f"{folder} has no weights. Download the model again.")
    return weights


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        return json.loads(file.read_text()) if file.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}). Download it again.") from error


def _given(number: int | None) -> int | None:
    return None if number in (None, -1) else number  # LDM writes -1 where the other one counts
