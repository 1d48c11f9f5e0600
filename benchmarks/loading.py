"""Seconds and host memory that it takes to load full-size priors onto their device.

    python benchmarks/loading.py                       # random weights at full size, half precision
    python benchmarks/loading.py --prior FOLDER --multiview FOLDER --csv outputs/loading.csv

Each way of loading runs in a process of its own, several times in turn; medians are reported. Host
memory is the peak of what the process holds beyond mapped files while it loads, above what it held
before. `diffusers` is what `from_pretrained` and `.to` do without accelerate. The last row loads a
second prior whose VAE equals the first one's. Runs on a GPU if there is one.
"""

import argparse
import importlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from tables import write_csv

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
WAYS = ("ours", "diffusers", "ours, then MVDream")
GIB = 2**30


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prior", help="a folder in diffusers layout; random weights by default")
    parser.add_argument("--multiview", help="a second one, with a vae/")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--csv", help="where every round is written")
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    return parser.parse_args()


class Watch:
    """The time, and the peaks of host and GPU memory, of a block."""

    def __enter__(self) -> "Watch":
        self._before = self._peak = _anonymous()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        self._gpu = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
        self._start = time.perf_counter()
        return self

    def _look(self) -> None:
        while not self._done.wait(0.002):
            self._peak = max(self._peak, _anonymous())

    def __exit__(self, *_: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            self._gpu = torch.cuda.memory_allocated() - self._gpu
        self.seconds = time.perf_counter() - self._start
        self._done.set()
        self._thread.join()
        self.host = max(self._peak, _anonymous()) - self._before
        self.gpu = self._gpu


def _anonymous() -> int:
    """Bytes of this process that are no mapped files (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def measure(way: str, prior: str, multiview: str) -> dict[str, float]:
    host = importlib.import_module("jointdreamer.host.selection")
    host.ensure_host()
    host.load_extension()
    load_prior = importlib.import_module("threestudio_jointdreamer.priors.loading").load_prior
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.zeros(1, device=device)  # the GPU's context is not part of it
    if way == "ours, then MVDream":
        first = load_prior(prior, device, vae_from=prior)
    with Watch() as watch:
        if way == "diffusers":
            kept = _by_diffusers(prior, device)
        elif way == "ours":
            kept = load_prior(prior, device, vae_from=prior)
        else:
            kept = first, load_prior(multiview, device, vae_from=multiview)
    del kept
    return {"seconds": watch.seconds, "host_gib": watch.host / GIB, "gpu_gib": watch.gpu / GIB}


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
    random_priors = importlib.import_module("jointdreamer.testing.random_priors")
    prior, multiview = folder / "stable-diffusion", folder / "mvdream"
    random_priors.build_full_size(prior)
    random_priors.build_full_size(multiview, seed=1, multiview=True)
    shutil.copytree(prior / "vae", multiview / "vae")
    return str(prior), str(multiview)


def run(way: str, prior: str, multiview: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--only", way, "--prior", prior, "--multiview", multiview]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    args = parse_arguments()
    if args.only:
        print(json.dumps(measure(args.only, args.prior, args.multiview)))
        return
    with tempfile.TemporaryDirectory() as folder:
        prior, multiview = args.prior, args.multiview
        if not prior or not multiview:
            prior, multiview = build(Path(folder))
        rows = [
            {"round": i, "way": way, **run(way, prior, multiview)}
            for i in range(args.rounds)
            for way in WAYS
        ]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    print(f"device {device}, torch {torch.__version__}, threads {torch.get_num_threads()}")
    print(f"{'way':24}{'s':>8}{'host GiB':>10}{'GPU GiB':>10}")
    for way in WAYS:
        own = [row for row in rows if row["way"] == way]
        numbers = [
            statistics.median(r[key] for r in own) for key in ("seconds", "host_gib", "gpu_gib")
        ]
        print(f"{way:24}{numbers[0]:8.2f}{numbers[1]:10.2f}{numbers[2]:10.2f}")
    if args.csv:
        write_csv(args.csv, [{"device": device, "torch": torch.__version__} | row for row in rows])


if __name__ == "__main__":
    main()
