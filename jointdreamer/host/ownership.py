"""A run's folder belongs to one run, and is written by one process at a time."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .resume import CHECKPOINTS

LOCK = ".lock"  # stays: it is the lock that a killed process loses, not the file
LOGS = ("csv_logs", "tb_logs", "metrics.json")
WORKPLACE = re.compile(r"\..+\..+")  # of a file that a process was writing when it was killed


class FolderTakenError(ValueError):
    """The folder is another run's."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from a folder, which is made; the same thread may lock it again.

    Raises:
        FolderTakenError: another process is at it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except Timeout as error:
        raise FolderTakenError(
            f"another process is at {folder}: wait until it ends, or choose another folder, by "
            "tag=NAME of launch.py or --out of other commands."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def owned(folder: Path, goes_on: bool) -> Iterator[None]:
    """The folder of a run while the run has it; what a killed process left half-written is removed.

    Args:
        goes_on: the checkpoints in it are this run's own.

    Raises:
        FolderTakenError: another process is at it, or it holds another run's checkpoints.
    """
    with locked(folder):
        is_new = {path.name for path in folder.iterdir()} <= {LOCK}
        if not goes_on:
            if any(folder.glob(f"{CHECKPOINTS}/*.ckpt")):
                raise FolderTakenError(
                    f"{folder} holds a run: go on with it by resume={folder}, or give this one "
                    "another name by tag=NAME."
                )
            for name in LOGS:  # of a start that came to no checkpoint
                _remove(folder / name)
        for place in (folder, *(folder / name for name in (CHECKPOINTS, "configs", "save"))):
            for path in place.glob(".*"):
                if WORKPLACE.fullmatch(path.name) and path.is_dir():
                    _remove(path)
        try:
            yield
        except BaseException:
            if is_new and not _has_begun(folder):
                _remove(folder)
            raise


def _has_begun(folder: Path) -> bool:
    """Whether the run has come to its first step."""
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    return bool(metrics["step"])


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
