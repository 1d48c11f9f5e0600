"""Weight files: read without running what they hold, and hashed."""

import hashlib
import pickletools
import re
import tarfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

PICKLED = (".pt", ".pth", ".ckpt", ".bin")
SUFFIXES = (".safetensors", *PICKLED)
# where training code puts weights; DINO evaluates the teacher's
WRAPPERS = ("state_dict", "model", "module", "model_state_dict", "teacher")
# Objects that trainers save beside the weights. An inert one of ours stands for each of them.
TRAINER_OBJECTS = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",  # the bytes of a NumPy number
    "argparse.Namespace",
)
HARMLESS = ("torch.", "collections.", *TRAINER_OBJECTS)
ZIP_MAGIC, LFS_MAGIC = b"PK\x03\x04", b"version https://git-lfs"
CHUNK = 1 << 23


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weights file on the CPU, memory-mapped where its format allows it.

    Reads .safetensors, and .pt, .pth, .ckpt and .bin with PyTorch's `weights_only` unpickler, to
    which a short list of harmless names is known (`TRAINER_OBJECTS`, what Lightning leaves in its
    checkpoints): nothing that the file names is imported or called. One level of nesting, as in
    `{"state_dict": {...}, "epoch": 3}`, is unwrapped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, corrupt, holds no weights, or would run code.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} is no weights file: expected one of {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Check the path, or download it again.")
    with open(path, "rb") as file:
        start = file.read(len(LFS_MAGIC))
    if start == LFS_MAGIC:
        raise ValueError(
            f"{path} is a Git LFS pointer, not the weights: fetch them with git lfs pull, or "
            "download the file itself."
        )
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    zipped = start.startswith(ZIP_MAGIC)
    if zipped:
        stat = path.stat()
        _check_sums(path, stat.st_size, stat.st_mtime_ns)  # PyTorch maps without a look at them
    return _state_dict(_unpickle(path, mapped=zipped), path)


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise _unreadable(path, error) from error
    if not tensors:
        raise ValueError(f"{path} holds no weights. Download it again.")
    return tensors


@cache  # a checkpoint is read once for each of its parts; a changed file is another
def _check_sums(path: Path, size: int, modified: int) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # of a damaged archive all sorts
        raise _unreadable(path, error) from error
    if damaged:
        raise _unreadable(path, ValueError(f"the checksum of {damaged} is wrong"))


def _unpickle(path: Path, mapped: bool) -> Any:
    _refuse_programs(path, mapped)
    try:
        with _only_stand_ins(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what is refused anyhow
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=mapped)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to mean
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        names = [named.group(1)] if named else _names_to_import(path)
        if names:
            raise ValueError(
                f"{path} is refused: unpickling it would run or import {names[0]}, which is no "
                "part of a weights file. Use a .safetensors file, or one from a source you trust."
            ) from error
        raise _unreadable(path, error) from error


def _refuse_programs(path: Path, zipped: bool) -> None:
    """Refuses what `torch.load` hands on to other loaders, `weights_only` or not."""
    what = None
    if zipped:
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                what = "a TorchScript program"
    elif tarfile.is_tarfile(path):  # before 2.6, PyTorch unpickles these unsafely
        what = "a tar archive, PyTorch's format of 2016"
    if what:
        raise ValueError(
            f"{path} is refused: it is {what}, which can run code. Use a .safetensors file, or "
            "save its state_dict() anew."
        )


def _unreadable(path: Path, error: Exception) -> ValueError:
    lines = str(error).split("WeightsUnpickler error:")[-1].strip().splitlines() or [""]
    reason = f"{type(error).__name__}: {lines[0].split('. ')[0][:120]}".rstrip(": .")
    return ValueError(
        f"{path} ({path.stat().st_size} bytes) is truncated, corrupt or no weights file "
        f"({reason}). Delete it and download it again."
    )


class _Inert:
    """Stands for an object that a weights file refers to and nobody needs; does nothing."""

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


STAND_INS = [
    type(attribute, (_Inert,), {"__module__": module})
    for module, _, attribute in (name.rpartition(".") for name in TRAINER_OBJECTS)
]


@contextmanager
def _only_stand_ins() -> Iterator[None]:
    """Allows our stand-ins and, while it lasts, nothing that others have allowed before."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(STAND_INS)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _names_to_import(path: Path) -> list[str]:
    """What a pickle refers to beyond PyTorch's own names, found without unpickling it."""
    names: list[str] = []
    strings: list[str] = []
    try:
        with _pickle_stream(path) as stream:
            while True:  # older files hold several pickles in a row
                for opcode, argument, _ in pickletools.genops(stream):
                    if opcode.name == "GLOBAL":
                        names.append(argument.replace(" ", "."))
                    elif opcode.name == "STACK_GLOBAL":
                        names.append(".".join(strings[-2:]))
                    elif isinstance(argument, str):
                        strings.append(argument)
    except Exception:  # the end of the stream, or of what is intact of it
        return [name for name in names if not name.startswith(HARMLESS)]


def _pickle_stream(path: Path) -> IO[bytes]:
    if not zipfile.is_zipfile(path):
        return open(path, "rb")
    with zipfile.ZipFile(path) as archive:  # which closes when the stream does
        return archive.open(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def _state_dict(loaded: Any, path: Path) -> dict[str, Tensor]:
    nested = [loaded.get(key) for key in WRAPPERS] if isinstance(loaded, Mapping) else []
    for candidate in (loaded, *nested):
        if isinstance(candidate, Mapping) and candidate:
            if all(isinstance(k, str) and isinstance(v, Tensor) for k, v in candidate.items()):
                return {name: tensor.detach() for name, tensor in candidate.items()}
    raise ValueError(
        f"{path} holds no weights: expected a dictionary of named tensors, or one under "
        f"{', '.join(WRAPPERS)}. Check that it is the right file."
    )
