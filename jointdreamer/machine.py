"""What this machine has: versions of the libraries, GPUs, and the parts that must be compiled."""

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

LIBRARIES = (
    "threestudio-jointdreamer",
    "torch",
    "diffusers",
    "transformers",
    "huggingface_hub",
    "safetensors",
    "pytorch-lightning",
    "nerfacc",
)


@dataclass(frozen=True)
class Gpu:
    """Sizes in bytes."""

    name: str
    total: int
    free: int
    capability: str


def versions() -> dict[str, str]:
    """Of Python and of the libraries; `not installed` where there is none."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    cuda = f", built for CUDA {torch.version.cuda}" if torch.version.cuda else ", without CUDA"
    found["torch"] = torch.__version__ + cuda
    return found


def gpus() -> list[Gpu]:
    """The GPUs that PyTorch may use, empty where there are none."""
    if not torch.cuda.is_available():
        return []
    return [_gpu(index) for index in range(torch.cuda.device_count())]


def _gpu(index: int) -> Gpu:
    free, total = torch.cuda.mem_get_info(index)
    major, minor = torch.cuda.get_device_capability(index)
    return Gpu(torch.cuda.get_device_name(index), total, free, f"{major}.{minor}")


def compiled_parts() -> dict[str, str]:
    """What speeds runs up, or is needed by some configs of threestudio, in a word or two each."""
    return {
        "threestudio": _threestudio(),
        "tiny-cuda-nn": _tinycudann(),
        "nerfacc's CUDA": _nerfacc(),
        "nvdiffrast": "there" if _exists("nvdiffrast") else "not there",
    }


def _threestudio() -> str:
    host = importlib.import_module("threestudio")
    version = getattr(host, "__version__", "of unknown version")
    # of threestudio's own models a host of ours has only those that our configs name
    whole = _exists("threestudio.models.guidance")
    where = Path(host.__file__).parent
    return f"{version} at {where}" if whole else f"not there; its API {version} is stood in for"


def _tinycudann() -> str:
    if not _exists("tinycudann_bindings"):
        return "not there; encodings run in PyTorch"
    try:
        importlib.import_module("tinycudann.modules")
    except Exception as error:  # built for another GPU or torch: it raises all sorts
        return f"does not work here ({error})"
    return "there"


def _nerfacc() -> str:
    if not torch.cuda.is_available():
        return "not usable without a GPU; rays are marched in PyTorch"
    if _exists("nerfacc.csrc"):
        return "there"
    folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache")
    if any(folder.glob("**/nerfacc_cuda*.so")):
        return "there, compiled here"
    if shutil.which("nvcc"):
        return "not compiled yet; its first use will compile it"
    return "not there, and no nvcc to compile it"


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
