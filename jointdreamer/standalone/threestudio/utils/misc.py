"""Devices, schedules, and parts of checkpoints."""

import gc
import os
import sys
from pickle import UnpicklingError
from typing import Any

import torch

from threestudio.utils.config import config_key, config_to_primitive


def get_rank() -> int:
    """This process's rank, 0 outside distributed runs."""
    # a SLURM job sets SLURM_PROCID for processes that it does not start as ranks: ask it last
    for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
        if key in os.environ:
            return int(os.environ[key])
    return 0


def get_device() -> torch.device:
    """This process's GPU, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", get_rank())))


def load_module_weights(
    path: str, ignore_modules: list[str] | None = None, map_location: Any = None
) -> tuple[dict, int, int]:
    """Reads the weights of a checkpoint, whole or without some modules.

    Args:
        path: a checkpoint written by a training run.
        ignore_modules: take all but these.

    Returns:
        The state dict, and the epoch and global step at which it was saved.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read or is no checkpoint.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"checkpoint '{path}' does not exist: check the path.")
    device = get_device() if map_location is None else map_location
    try:
        ckpt = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError, ValueError) as error:
        raise ValueError(
            f"checkpoint '{path}' cannot be read ({str(error).partition(chr(10))[0]}): it is "
            "truncated or no checkpoint. Choose another one of that run."
        ) from error
    if not isinstance(ckpt, dict) or not {"state_dict", "epoch", "global_step"} <= set(ckpt):
        raise ValueError(
            f"'{path}' is no checkpoint of a training run (it lacks state_dict, epoch or "
            "global_step): give one from a run's ckpts folder."
        )
    ignored = tuple(f"{name}." for name in ignore_modules or ())
    state_dict = {k: v for k, v in ckpt["state_dict"].items() if not k.startswith(ignored)}
    return state_dict, ckpt["epoch"], ckpt["global_step"]


def C(value: Any, epoch: int, global_step: int) -> float:
    """The value of a schedule now.

    A schedule is a number, or `[start_step, start_value, end_value, end_step]` (constant outside,
    interpolated between), or `[start_value, end_value, end_step]` (from step 0), or pieces
    `[step, value, value, step, value, step, ...]`, one more (value, step) for each piece. A piece
    whose end is written as a float, like `5.0`, counts epochs and not steps.

    Raises:
        ValueError: if the list has another length.

    Example:
        >>> C([100, 1.0, 3.0, 200], epoch=0, global_step=150)
        2.0
    """
    if isinstance(value, int | float):
        return value
    numbers = config_to_primitive(value)
    if not isinstance(numbers, list):
        raise TypeError(f"a schedule is a number or a list of numbers, not {type(value).__name__}.")
    if len(numbers) == 3:
        numbers = [0, *numbers]
    if len(numbers) < 4 or len(numbers) % 2:
        raise ValueError(
            f"{config_key(value) or 'schedule'}={numbers} has {len(numbers)} numbers: write a "
            "number, [start_value, end_value, end_step] or "
            "[start_step, start_value, end_value, end_step]."
        )
    knots = [(numbers[0], numbers[1])]
    knots += [(step, number) for number, step in zip(numbers[2::2], numbers[3::2], strict=True)]
    piece = max([0] + [i for i in range(1, len(knots) - 1) if global_step >= knots[i][0]])
    (start_step, start), (end_step, end) = knots[piece], knots[piece + 1]
    now = epoch if isinstance(end_step, float) else global_step
    if end_step == start_step:
        t = float(now >= end_step)
    else:
        t = min(max((now - start_step) / (end_step - start_step), 0.0), 1.0)
    return start + (end - start) * t


def cleanup() -> None:
    """Gives memory that nobody uses back to the system."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    encodings = sys.modules.get("tinycudann")
    if encodings is not None:
        encodings.free_temporary_memory()


def barrier() -> None:
    """Waits for all ranks; nothing outside distributed runs."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
