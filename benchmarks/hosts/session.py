"""What a piece is given: the host, a device, configs of ours, and the modules they describe."""

import importlib
import os
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.hosts import recipe

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {"tiny": "configs/tiny/jointdreamer.yaml", "full": "configs/jointdreamer.yaml"}
PROMPT = "a blue cat wearing a red hat"
PRIOR = ROOT / "load" / "tiny" / "stable-diffusion"
NERFACC_CUDA = "JOINTDREAMER_NERFACC_CUDA"
PACKAGES = ("compiled", "pytorch")

Rows = Iterator[tuple[str, Tensor]]


@dataclass(frozen=True)
class Session:
    """Where pieces are built and run.

    Attributes:
        folder: an empty one, the working directory while pieces run.
    """

    device: torch.device
    folder: Path

    def config(self, name: str, *overrides: str) -> Any:
        """The experiment of CONFIGS[name], parsed by the host."""
        from threestudio.utils.config import load_config

        items = [f"system.prompt_processor.prompt={PROMPT}", f"exp_root_dir={self.folder}"]
        items += ["tag=benchmark", "use_timestamp=false", *overrides]
        return load_config(str(ROOT / CONFIGS[name]), cli_args=items, n_gpus=1)

    def build(self, kind: str, config: Mapping[str, Any], **parts: nn.Module) -> nn.Module:
        """A registered module, filled with the recipe's weights, on the device."""
        import threestudio

        module = threestudio.find(kind)(config, **parts)
        return recipe.fill(module).to(self.device)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.float16)


@contextmanager
def session(device: str) -> Iterator[Session]:
    """A session in a folder of its own: threestudio writes into the working directory."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Session(torch.device(device), Path(folder))
        finally:
            os.chdir(before)


def choose_host(packages: str) -> dict[str, str]:
    """Makes the host that THREESTUDIO_ROOT says importable; returns what it is made of.

    Args:
        packages: "compiled" takes tiny-cuda-nn and nerfacc's CUDA functions where they are
            installed, "pytorch" takes neither in the standalone host (threestudio has no other way
            of marching rays than nerfacc's).

    Returns:
        `host`, `encodings`, `marching`, and the versions of `torch` and `nerfacc`.
    """
    compiled = packages == "compiled"
    os.environ[NERFACC_CUDA] = "1" if compiled and torch.cuda.is_available() else "0"
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from jointdreamer.host import selection as host

    if not compiled:
        os.environ["JOINTDREAMER_TINYCUDANN"] = "0"  # ours, although NVIDIA's may be installed
    folder = host.ensure_host()
    host.load_extension()
    standalone = folder.is_relative_to(host.STANDALONE)
    kernels = True
    if standalone:
        from threestudio.models.renderers.marching import nerfacc_kernels_available

        kernels = nerfacc_kernels_available()
    encodings = importlib.import_module("tinycudann")
    ours = Path(encodings.__file__).resolve().is_relative_to(host.STANDALONE)
    return {
        "host": "standalone" if standalone else "threestudio",
        "packages": packages,
        "encodings": "PyTorch" if ours else "tiny-cuda-nn",
        "marching": "nerfacc" if kernels else "PyTorch",
        "torch": str(torch.__version__),
        "nerfacc": _version("nerfacc"),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def each_of(parts: Iterable[tuple[str, Rows]]) -> Rows:
    """The rows of all parts, with their prefixes; one that fails does not stop the others.

    Raises:
        RuntimeError: at the end, if a part failed; says which ones, and with what.
    """
    failures = []
    for prefix, rows in parts:
        try:
            for name, value in rows:
                yield f"{prefix}/{name}", value
        except Exception as error:
            traceback.print_exc()
            failures.append(f"{prefix}: {type(error).__name__}: {' '.join(str(error).split())}")
    if failures:
        raise RuntimeError("; ".join(failures))


def gradients(scalar: Tensor, module: nn.Module) -> dict[str, Tensor]:
    """The gradient of `scalar` for every parameter that has entries; zeros where it is unused.

    The graph is kept, for other scalars of the same output.
    """
    named = {name: p for name, p in module.named_parameters() if p.numel() and p.requires_grad}
    if not named:
        return {}
    values = torch.autograd.grad(scalar, list(named.values()), retain_graph=True, allow_unused=True)
    return {
        name: torch.zeros_like(p) if value is None else value
        for (name, p), value in zip(named.items(), values, strict=True)
    }
