"""Which files of a model's folder hold its weights, and reading them to a device and dtype."""

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .files import read_weights

WEIGHT_FILE = re.compile(
    r"(?P<stem>diffusion_pytorch_model|pytorch_model|model)(?P<half>\.fp16)?"
    r"(?:-(?P<shard>\d{5})-of-(?P<shards>\d{5}))?(?P<half_after>\.fp16)?"
    r"\.(?P<format>safetensors|bin)"
)


def choose_weights(names: Iterable[str], half: bool) -> list[str]:
    """The files that together hold a model's weights, of all the names in its folder.

    diffusers' and transformers' names: one file or shards, plain or `.fp16`. safetensors go before
    pickles, then what is nearest in precision, then one file before shards.

    Args:
        half: the weights will be used in half precision.

    Returns:
        Names in order; none if there are no weights.

    Raises:
        FileNotFoundError: shards are missing, and nothing else is complete.
    """
    complete: dict[tuple, list[str]] = {}
    incomplete: list[str] = []
    for group, files in _grouped(names).items():
        shards = group[-1]
        if len(files) == (shards or 1):
            complete[group] = sorted(files)
        else:
            incomplete.append(f"{len(files)} of the {shards} shards of {files[0]}")
    if not complete and incomplete:
        raise FileNotFoundError(f"only {', '.join(sorted(incomplete))}")

    def rank(group: tuple) -> tuple:
        file_format, is_half, shards = group
        return file_format != "safetensors", is_half != half, shards

    return complete[min(complete, key=rank)] if complete else []


def _grouped(names: Iterable[str]) -> dict[tuple[str, bool, int], list[str]]:
    groups: dict[tuple[str, bool, int], list[str]] = {}
    for name in sorted(names):
        if match := WEIGHT_FILE.fullmatch(name):
            half = bool(match["half"] or match["half_after"])
            group = (match["format"], half, int(match["shards"] or 0))
            groups.setdefault(group, []).append(name)
    return groups


def find_weights(folder: Path, described: str, half: bool) -> list[Path]:
    """`choose_weights` of a local folder that must hold a model.

    Args:
        described: the config key with its value and the folder, for errors.

    Raises:
        FileNotFoundError: no config.json, no weights, or shards that are missing.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{described} has no config.json. Point the key to a model in diffusers layout."
        )
    try:
        names = choose_weights((file.name for file in folder.iterdir()), half)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{described} holds {error}. Download it again.") from error
    if not names:
        raise FileNotFoundError(
            f"{described} has no weights: none of diffusion_pytorch_model.safetensors, "
            "model.safetensors, their .fp16 variants, shards or .bin. Download the model again."
        )
    return [folder / name for name in names]


def read_tensors(
    files: Iterable[Path], device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """All tensors of these files on `device`, floating ones in `dtype`, one by one.

    Files are mapped, not read into memory as a whole; nothing of the result refers to them.

    Raises:
        ValueError: a file that is truncated, corrupt, or holds more than tensors.
    """
    tensors: dict[str, Tensor] = {}
    for file in files:
        if file.suffix == ".safetensors":
            tensors |= _read_safetensors(file, device, dtype)
        else:
            tensors |= place(read_weights(file), device, dtype)
    return tensors


def place(
    tensors: dict[str, Tensor], device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The tensors on `device`, floating ones in `dtype`; emptied as it goes, to free memory."""
    return {name: _moved(tensors.pop(name), device, dtype) for name in list(tensors)}


def _read_safetensors(file: Path, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: _moved(opened.get_tensor(name), device, dtype) for name in opened.keys()}
    except SafetensorError as error:
        raise ValueError(
            f"{file} ({file.stat().st_size} bytes) is truncated or corrupt ({error}). "
            "Delete it and download it again."
        ) from error


def _moved(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    wanted = dtype if tensor.is_floating_point() else tensor.dtype
    # always a copy: a mapped file may be overwritten while the model lives
    return tensor.to(device, wanted, copy=True)
