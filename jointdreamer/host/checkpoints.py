"""Checkpoints that are on disk complete or not at all, and finding the one to go on from."""

import io
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from threestudio_jointdreamer.files import damaged_part, replacing
from threestudio_jointdreamer.systems.stage_weights import plain

from .resume import CHECKPOINTS

REMEDY = "Give resume= another checkpoint, or the run's folder for the last sound one."


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
    path: str | Path, map_location: Any = "cpu", whole: bool = True
) -> dict[str, Any]:
    """Loads a checkpoint, without running code that might be in it.

    Args:
        whole: check that every bit is as it was saved and every weight finite; without, the weights
            stay in the file until they are used.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is truncated, damaged, holds more than plain data, or is no checkpoint of
            a training run, or its weights are not finite.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"checkpoint '{path}' does not exist: check resume=, or give the run's folder."
        )
    try:
        if whole and (part := damaged_part(path)):
            raise ValueError(f"{part} is not as it was saved")
        mmap = not whole and zipfile.is_zipfile(path)  # not of torch before 1.6
        ckpt = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except (RuntimeError, UnpicklingError, EOFError, ValueError, OSError) as error:
        raise ValueError(f"checkpoint '{path}' cannot be read: {_reason(error)}") from error
    if not isinstance(ckpt, dict) or not {"state_dict", "epoch", "global_step"} <= set(ckpt):
        raise ValueError(
            f"'{path}' is no checkpoint of a training run: give resume= a file that a run saved "
            f"in its {CHECKPOINTS} folder."
        )
    for name, weights in ckpt["state_dict"].items() if whole else ():
        if not weights.isfinite().all():
            raise ValueError(
                f"checkpoint '{path}' cannot be used: its weights {name} are not finite. {REMEDY}"
            )
    return ckpt


def _reason(error: Exception) -> str:
    if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return (
            f"it holds {found[1]}, and only tensors and plain data are read, as anything else may "
            "run code. If you trust the file, load it with torch.load(..., weights_only=False) and "
            "save it with lists and dicts in its place."
        )
    said = str(error).partition("\n")[0]
    return f"it is truncated, damaged or no checkpoint ({said}). {REMEDY}"


@contextmanager
def telling_what_does_not_fit(path: str | None, differing: str = "") -> Iterator[None]:
    """Within it a checkpoint of another model or optimizer is told in one line.

    Args:
        differing: the settings that the checkpoint's run did not have.

    Raises:
        ValueError: the weights, or what the optimizer keeps, do not fit those of the config.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())
        if path is None or not re.search("loading state_dict|loaded state dict", text):
            raise
        block = "optimizer" if "loaded state dict" in text else "geometry and the like"
        raise ValueError(
            f"resume={path} does not fit this config: leave out "
            f"{differing or f'what was changed in system.{block}'}, or train anew. {text[:300]}"
        ) from error


def checkpoints_in(folder: Path) -> list[tuple[int, float, str]]:
    """Step, time and path of each checkpoint, newest first; reports those that do not open."""
    found = []
    for file in folder.glob("*.ckpt"):
        try:
            step = read_checkpoint(file, whole=False)["global_step"]
        except ValueError as error:
            rank_zero_warn(f"Passing over a checkpoint: {error}")
        else:
            found.append((step, file.stat().st_mtime, str(file)))
    return sorted(found, reverse=True)


def find_checkpoint(resume: str) -> str:
    """The checkpoint that `resume` means: a file, or a run's folder for its newest sound one.

    Newest is the one at the largest global step. Those that are not whole, or whose weights are
    not finite, are reported and passed over.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if `resume` is a file that cannot be used.
    """
    path = Path(resume)
    if not path.is_dir():
        read_checkpoint(path)
        return resume
    folder = path / CHECKPOINTS if (path / CHECKPOINTS).is_dir() else path
    for _, _, file in checkpoints_in(folder):
        try:
            read_checkpoint(file)
        except ValueError as error:
            rank_zero_warn(f"Passing over a checkpoint: {error}")
        else:
            return file
    raise FileNotFoundError(
        f"resume={resume} holds no complete checkpoint (*.ckpt, looked in '{folder}'): train "
        "first, or give another folder."
    )
