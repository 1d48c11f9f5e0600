"""Seconds and host memory that it takes to load full-size priors onto their device.

    python benchmarks/loading.py                       # random weights at full size, half precision
    python benchmarks/loading.py --prior FOLDER --multiview FOLDER --csv outputs/loading.csv

Each way of loading runs in a process of its own, several times in turn; medians are reported. Host
memory is the peak of what the process holds beyond mapped files while it loads, above what it held
before. `diffusers` is what `from_pretrained` and `.to` do without accelerate. The last row loads a
second prior whose VAE equals the first one's. Runs on a GPU if there is one.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks.measure import in_own_process, load_host, seconds, setting
from benchmarks.tables import as_text, write_csv

WAYS = ("ours", "diffusers", "ours, then MVDream")
GIB = 2**30


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prior", help="a folder in diffusers layout; random weights by default")
    parser.add_argument("--multiview", help="a second one, with a vae/")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--csv", help="where every round is written")
    return parser.parse_args()


class PeakMemory:
    """Watches what this process holds beyond mapped files (Linux), in bytes, for a block."""

    def __enter__(self) -> "PeakMemory":
        self._before = self._peak = _anonymous()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._done.wait(0.002):
            self._peak = max(self._peak, _anonymous())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.above = max(self._peak, _anonymous()) - self._before


def _anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def measure(way: str, prior: str, multiview: str) -> dict[str, float]:
    """Loads in one of the WAYS, in this process."""
    load_host()
    from threestudio_jointdreamer.priors.loading import load_prior

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.zeros(1, device=device)  # the GPU's context is not part of it
    kept: list[Any] = []
    folder = prior
    if way == "ours, then MVDream":
        kept.append(load_prior(prior, device, vae_from=prior))
        folder = multiview

    def load() -> None:
        if way == "diffusers":
            kept.append(_by_diffusers(folder, device))
        else:
            kept.append(load_prior(folder, device, vae_from=folder))

    before = _on_gpu()
    with PeakMemory() as host:
        took = seconds(load)
    gpu = _on_gpu() - before
    return {"seconds": took, "host_gib": host.above / GIB, "gpu_gib": gpu / GIB}


def _on_gpu() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def _by_diffusers(folder: str, device: torch.device) -> list[torch.nn.Module]:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    dtype = torch.float16 if device.type == "cuda" else torch.float32
    options = {"torch_dtype": dtype, "low_cpu_mem_usage": False}
    parts = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
    return [
        cls.from_pretrained(Path(folder) / part, **options).to(device)
        for part, cls in parts.items()
    ]


def build(folder: Path) -> tuple[str, str]:
    """Random weights at full size, the second model with the first one's VAE."""
    from jointdreamer.testing.random_priors import build_full_size

    prior, multiview = folder / "stable-diffusion", folder / "mvdream"
    build_full_size(prior)
    build_full_size(multiview, seed=1, multiview=True)
    shutil.copytree(prior / "vae", multiview / "vae")
    return str(prior), str(multiview)


def medians(way: str, rows: list[dict]) -> dict[str, str]:
    own = [row for row in rows if row["way"] == way]
    keys = ("seconds", "host_gib", "gpu_gib")
    return {"way": way} | {key: f"{statistics.median(r[key] for r in own):.2f}" for key in keys}


def main() -> None:
    args = parse_arguments()
    load_host()
    with tempfile.TemporaryDirectory() as folder:
        prior, multiview = args.prior, args.multiview
        if not prior or not multiview:
            prior, multiview = build(Path(folder))
        rows = [
            {"round": i, "way": way} | in_own_process(measure, way, prior, multiview)
            for i in range(args.rounds)
            for way in WAYS
        ]
    machine = setting()
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print(as_text([medians(way, rows) for way in WAYS]))
    if args.csv:
        del machine["threads"]
        write_csv(args.csv, [machine | row for row in rows])


if __name__ == "__main__":
    main()
