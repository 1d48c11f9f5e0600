"""A model that a config names: found, opened, and its parts loaded."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .assembling import assemble
from .files import read_weights
from .folder import Folder
from .ldm.checkpoint import Checkpoint, Hints, Part, open_checkpoint
from .names import resolve
from .sharing import share_weights

Module = TypeVar("Module", bound=nn.Module)


def open_model(
    name_or_path: str,
    key: str,
    parts: Sequence[str] | None = None,
    half: bool = False,
    hints: Hints | None = None,
) -> "NamedModel":
    """Finds the model that a config key names, and opens it; see `resolve` for all but `hints`.

    Args:
        hints: what an original checkpoint does not tell.

    Raises: as `resolve` and `open_files`.
    """
    path = resolve(name_or_path, key, parts, half)
    described = f"{key}={str(name_or_path)!r}"
    with _named(described):
        return NamedModel(described, open_files(path, half, hints))


def open_files(path: Path, half: bool = False, hints: Hints | None = None) -> Folder | Checkpoint:
    """A folder or checkpoint file as parts in the stock layout.

    Raises:
        ValueError: a file that cannot be read, is of no known kind, or would run code.
    """
    if path.is_dir():
        return Folder(path, half, hints or Hints())
    return open_checkpoint(read_weights(path), path, hints)


@dataclass(frozen=True)
class NamedModel:
    """An open model whose errors name the config key.

    Attributes:
        described: the key and its value.
        files: has `kind`, `parts`, `has(part)`, `files(part)` and `read(part)`.
    """

    described: str
    files: Folder | Checkpoint

    def has(self, part: str) -> bool:
        return self.files.has(part)

    def read(self, part: str) -> Part:
        """A part's config and weights in the stock layout, memory-mapped where possible.

        Raises:
            FileNotFoundError, ValueError: it is missing, damaged, or does not fit its kind.
        """
        with _named(self.described):
            return self.files.read(part)

    def load(
        self,
        model_class: type[Module],
        part: str,
        device: torch.device,
        dtype: torch.dtype,
        contents: Part | None = None,
        change: Callable[[Module], Any] | None = None,
        **arguments: Any,
    ) -> Module:
        """A part as a frozen model in eval mode, read straight to its device and dtype.

        Every tensor must have its place in the model, and the other way round. Models with equal
        weights hold them once (see `share_weights`).

        Args:
            contents: what `read` gave of the part, if it was read already.
            change: called with the model before its weights are compared with others'.
            arguments: further keyword arguments of `model_class`.

        Raises:
            FileNotFoundError, ValueError: as `read`, or config and weights are not of one model.
        """
        # transformers puts models together on the CPU
        first = torch.device("cpu") if issubclass(model_class, PreTrainedModel) else device
        config, weights = contents or self.read(part)
        try:
            model = assemble(model_class, config, place(weights, first, dtype), **arguments)
        except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{self.described}: {self.files.path / part} does not load as "
                f"{model_class.__name__} ({error}). Check that config.json and weights are of one "
                "model, in diffusers layout and complete, or download both again."
            ) from error
        model = model.to(device).eval().requires_grad_(False)
        if change is not None:
            change(model)
        return share_weights(model)


def place(
    tensors: dict[str, Tensor], device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The tensors on `device`, floating ones in `dtype`; emptied as it goes, to free memory."""

    placed = {}
    for name in list(tensors):
        tensor = tensors.pop(name)
        wanted = dtype if tensor.is_floating_point() else tensor.dtype
        # always a copy: a mapped file may be overwritten while the model lives
        placed[name] = tensor.to(device, wanted, copy=True)
    return placed


@contextmanager
def _named(described: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{described}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{described}: {error}") from error
