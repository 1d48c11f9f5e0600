"""Checkpoints that are on disk complete or not at all, and finding the one to go on from."""

import io
import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from threestudio_jointdreamer.files import replacing
from threestudio_jointdreamer.systems.stage_weights import plain

from .resume import CHECKPOINTS


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints whole, forced to disk, or not at all; loads plain data only.

    A process killed while it saves leaves the older file of that name untouched.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Saves `checkpoint`; OmegaConf containers in it become plain ones.

        Raises:
            OSError: if it cannot be written; says what to do when the disk is full.
        """
        # torch hides what went wrong with a file it writes to, so it writes to memory
        buffer = io.BytesIO()
        torch.save(plain(checkpoint), buffer)
        with replacing(path, durable=True) as new:
            new.write_bytes(buffer.getbuffer())

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """As `read_checkpoint`; never runs pickled code, whatever `weights_only` says."""
        return read_checkpoint(path, "cpu" if map_location is None else map_location)


def read_checkpoint(
    path: str | Path, map_location: Any = "cpu", mmap: bool = False
) -> dict[str, Any]:
    """Loads a checkpoint, without running code that might be in it.

    Args:
        mmap: leave the weights in the file until they are used, which is quick if they are not.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is truncated, damaged, holds more than plain data, or is no checkpoint of
            a training run.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"checkpoint '{path}' does not exist: check resume=, or give the run's folder."
        )
    try:
        ckpt = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except (RuntimeError, UnpicklingError, EOFError, ValueError, OSError) as error:
        raise ValueError(f"checkpoint '{path}' cannot be read: {_reason(error)}") from error
    if not isinstance(ckpt, dict) or not {"state_dict", "epoch", "global_step"} <= set(ckpt):
        raise ValueError(
            f"'{path}' is no checkpoint of a training run: give resume= a file that a run saved "
            f"in its {CHECKPOINTS} folder."
        )
    return ckpt


def _reason(error: Exception) -> str:
    if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return (
            f"it holds {found[1]}, and only tensors and plain data are read, as anything else may "
            "run code. If you trust the file, load it with torch.load(..., weights_only=False) and "
            "save it with lists and dicts in its place."
        )
    return (
        f"it is truncated, damaged or no checkpoint ({str(error).partition(chr(10))[0]}). Give "
        "resume= another checkpoint, or the run's folder for the last complete one."
    )


def find_checkpoint(resume: str) -> str:
    """The checkpoint that `resume` means: a file, or a run's folder for its newest complete one.

    Newest is the one at the largest global step. Incomplete files are reported and passed over.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if `resume` is a file that cannot be read.
    """
    path = Path(resume)
    if not path.is_dir():
        read_checkpoint(path, mmap=True)
        return resume
    folder = path / CHECKPOINTS if (path / CHECKPOINTS).is_dir() else path
    found = []
    for file in folder.glob("*.ckpt"):
        try:
            step = read_checkpoint(file, mmap=True)["global_step"]
        except ValueError as error:
            rank_zero_warn(f"Passing over a checkpoint: {error}")
        else:
            found.append((step, file.stat().st_mtime, str(file)))
    if not found:
        raise FileNotFoundError(
            f"resume={resume} holds no complete checkpoint (*.ckpt, looked in '{folder}'): train "
            "first, or give another folder."
        )
    return max(found)[-1]
