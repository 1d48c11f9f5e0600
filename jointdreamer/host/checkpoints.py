"""Checkpoints that are on disk complete or not at all, and finding the one to go on from."""

import errno
import io
import os
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from omegaconf import OmegaConf
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

FOLDER = "ckpts"  # of a run, below its trial_dir


class AtomicCheckpointIO(CheckpointIO):
    """Saves to a temporary name, forces that to disk and renames it; loads plain data only.

    A process killed while it saves leaves the older file of that name untouched.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Saves `checkpoint`; OmegaConf containers in it become plain ones.

        Raises:
            OSError: if it cannot be written; says what to do when the disk is full.
        """
        path = Path(path)
        temporary = path.with_name(f".{path.name}.tmp")
        # torch hides what went wrong with a file it writes to, so it writes to memory
        buffer = io.BytesIO()
        torch.save(_plain(checkpoint), buffer)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise OSError(error.errno, _write_error_text(error, path, buffer)) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """As `read_checkpoint`; never runs pickled code, whatever `weights_only` says."""
        return read_checkpoint(path, "cpu" if map_location is None else map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    if OmegaConf.is_config(value):
        return OmegaConf.to_container(value, resolve=True)
    if type(value) is dict:
        return {key: _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    return value


def _write_error_text(error: OSError, path: Path, buffer: io.BytesIO) -> str:
    if error.errno != errno.ENOSPC:
        return f"checkpoint '{path}' cannot be written: {error.strerror}."
    size = buffer.getbuffer().nbytes / 2**20
    return (
        f"no space left on the disk for checkpoint '{path}' ({size:.0f} MiB): free some and go on "
        f"with resume={path.parent.parent}, which means the last checkpoint that is complete."
    )


def _sync_folder(folder: Path) -> None:
    """Forces a rename to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_checkpoint(
    path: str | Path, map_location: Any = "cpu", mmap: bool = False
) -> dict[str, Any]:
    """Loads a checkpoint, without running code that might be in it.

    Args:
        mmap: leave the weights in the file until they are used, which is quick if they are not.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is truncated, damaged or no checkpoint of a training run.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"checkpoint '{path}' does not exist: check resume=, or give the run's folder."
        )
    try:
        ckpt = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except (RuntimeError, UnpicklingError, EOFError, ValueError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"checkpoint '{path}' cannot be read: it is truncated, damaged or no checkpoint "
            f"({reason}). Give resume= another checkpoint, or the run's folder for the last "
            "complete one."
        ) from error
    if not isinstance(ckpt, dict) or not {"state_dict", "epoch", "global_step"} <= set(ckpt):
        raise ValueError(
            f"'{path}' is no checkpoint of a training run: give resume= a file that a run saved "
            f"in its {FOLDER} folder."
        )
    return ckpt


def find_checkpoint(resume: str) -> str:
    """The checkpoint that `resume` means: a file, or a run's folder for its newest complete one.

    Newest is the one at the largest global step. Incomplete files are reported and passed over.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if `resume` is a file that cannot be read.
    """
    if not os.path.isdir(resume):
        read_checkpoint(resume, mmap=True)
        return resume
    folder = os.path.join(resume, FOLDER)
    candidates = sorted(Path(folder if os.path.isdir(folder) else resume).glob("*.ckpt"))
    steps = {}
    for path in candidates:
        try:
            steps[str(path)] = read_checkpoint(path, mmap=True)["global_step"]
        except ValueError as error:
            rank_zero_warn(f"Passing over a checkpoint: {error}")
    if not steps:
        raise FileNotFoundError(
            f"resume={resume} holds no complete checkpoint (*.ckpt, looked in '{folder}'): train "
            "first, or give another folder."
        )
    return max(steps, key=lambda path: (steps[path], os.path.getmtime(path)))


def trial_folder(checkpoint: str) -> str | None:
    """The run's folder that a checkpoint lies in, or None if it lies elsewhere."""
    folder = os.path.dirname(os.path.abspath(checkpoint))
    return os.path.dirname(folder) if os.path.basename(folder) == FOLDER else None
