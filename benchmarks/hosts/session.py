"""What a component is given: the host, a device, configs of ours, and the modules they describe."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.hosts import seeded
from benchmarks.measure import load_host

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {"tiny": "configs/tiny/jointdreamer.yaml", "full": "configs/jointdreamer.yaml"}
PROMPT = "a blue cat wearing a red hat"
PRIOR = ROOT / "load" / "tiny" / "stable-diffusion"
PACKAGES = ("compiled", "pytorch")

Rows = Iterator[tuple[str, Tensor]]
Cases = dict[str, Rows]


@dataclass(frozen=True)
class Session:
    """Where components are built and run.

    Attributes:
        folder: an empty one, the working directory while components run.
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
        """A registered module, filled with seeded weights, on the device."""
        import threestudio

        module = threestudio.find(kind)(config, **parts)
        return seeded.fill(module).to(self.device)

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
        `host`, "threestudio" or "standalone", and `packages`.
    """
    compiled = packages == "compiled"
    os.environ["JOINTDREAMER_NERFACC_CUDA"] = str(int(compiled and torch.cuda.is_available()))
    if not compiled:
        os.environ["JOINTDREAMER_TINYCUDANN"] = "0"  # ours, although NVIDIA's may be installed
    return {"host": load_host(), "packages": packages}


def choose_standalone_host() -> None:
    """For what needs no host in particular."""
    os.environ.pop("THREESTUDIO_ROOT", None)
    choose_host("pytorch")


def gradients(scalar: Tensor, module: nn.Module) -> dict[str, Tensor]:
    """The gradient of `scalar` for every parameter that has entries; zeros where it is unused.

    The graph is kept, for other scalars of the same output.
    """
    named = {name: p for name, p in module.named_parameters() if p.numel() and p.requires_grad}
    if not named:
        return {}
    values = torch.autograd.grad(
        scalar,
        list(named.values()),
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return dict(zip(named, values, strict=True))
