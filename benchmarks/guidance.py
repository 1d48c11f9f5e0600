"""What Joint Score Distillation costs beside SDS: time and peak memory of one guidance step.

    python benchmarks/guidance.py                                 # the shipped tiny priors
    python benchmarks/guidance.py --random full --size 64 --views 8 --compile
    python benchmarks/guidance.py --prior FOLDER --multiview FOLDER --csv outputs/guidance.csv

A step is the guidance's forward and the backward to the renders. Variants take turns, round by
round, so that what else the machine does falls on all of them; ratios are medians of the rounds'
own ratios. Peak memory is the GPU's, without the CUDA context; on a CPU it is the peak resident
size of a process that runs the one variant. Runs on a GPU if there is one.
"""

import argparse
import csv
import importlib
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

MULTIVIEW = {"energy_type": "jsd-multiview-energy"}
VARIANTS = {
    "sds": {"energy_type": "jsd-zero-energy", "energy_weight": 0.0},
    "jsd, weight 0": MULTIVIEW | {"energy_weight": 0.0},
    "jsd": MULTIVIEW | {"energy_weight": 0.3125},
    "jsd, through the UNet": MULTIVIEW | {"energy_weight": 0.3125, "energy_gradient": "unet"},
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prior", default=str(ROOT / "load/tiny/stable-diffusion"))
    parser.add_argument("--multiview", default=str(ROOT / "load/tiny/mvdream"))
    parser.add_argument("--random", choices=["tiny", "full"], help="random weights of that size")
    parser.add_argument("--views", type=int, default=4, help="views in a batch, 4 per object")
    parser.add_argument("--size", type=int, default=64, help="pixels of a render")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", choices=["shared", "fresh"], default="fresh")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--csv", help="where every round is written")
    parser.add_argument("--only", choices=list(VARIANTS), help=argparse.SUPPRESS)
    return parser.parse_args()


def build_random_priors(size: str, folder: Path, seed: int) -> tuple[str, str]:
    random_priors = importlib.import_module("helpers.random_priors")
    prior, multiview = folder / "stable-diffusion", folder / "mvdream"
    if size == "full":
        random_priors.build_full_size(prior, seed)
        random_priors.build_full_size(multiview, seed + 1, multiview=True)
    else:
        random_priors.build_stable_diffusion(prior, seed)
        random_priors.build_mvdream(multiview, seed + 1)
    return str(prior), str(multiview)


class Variant:
    """One guidance with its inputs."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        import threestudio
        from helpers.cameras import camera_ring
        from helpers.prompts import RandomPrompts

        cfg = {
            "pretrained_model_name_or_path": args.prior,
            "compile": args.compile,
            **VARIANTS[name],
        }
        if name != "sds":
            cfg["energy"] = {
                "pretrained_model_name_or_path": args.multiview,
                "noise": args.noise,
                "compile": args.compile,
            }
        self.guidance = threestudio.find("jsd-guidance")(cfg)
        self.device, self.seed = self.guidance.device, args.seed
        width = self.guidance.prior.text_dim
        self.prompts = RandomPrompts(args.seed, length=77 if width > 128 else 24, width=width)
        for field in ("text_embeddings", "uncond_text_embeddings", "direction"):
            setattr(self.prompts, field, getattr(self.prompts, field).to(self.device))
        generator = torch.Generator().manual_seed(args.seed)
        self.rgb = torch.rand(args.views, args.size, args.size, 3, generator=generator)
        self.rgb = self.rgb.to(self.device).requires_grad_()
        cameras = camera_ring(args.views // 4, 4)
        self.batch = {key: value.to(self.device) for key, value in cameras.items()}

    def step(self) -> tuple[float, float]:
        """Seconds, and the peak memory so far (CPU) or in this step (GPU) in MiB."""
        torch.manual_seed(self.seed)
        self.rgb.grad = None
        self._synchronize()
        start = time.perf_counter()
        self.guidance(self.rgb, self.prompts, **self.batch)["loss_sds"].backward()
        self._synchronize()
        return time.perf_counter() - start, self._peak()

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _peak(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def peak_memory(name: str, args: argparse.Namespace) -> float:
    """MiB that a process with this variant alone needs."""
    options = {
        "--prior": args.prior,
        "--multiview": args.multiview,
        "--views": args.views,
        "--size": args.size,
        "--seed": args.seed,
        "--noise": args.noise,
        "--only": name,
    }
    command = [sys.executable, __file__, *(str(x) for pair in options.items() for x in pair)]
    command += ["--compile"] if args.compile else []
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def run_rounds(args: argparse.Namespace) -> list[dict]:
    variants = {name: Variant(name, args) for name in VARIANTS}
    for variant in variants.values():
        for _ in range(args.warmup):
            variant.step()
    return [
        {"round": i, "variant": name, "seconds": variant.step()[0]}
        for i in range(args.rounds)
        for name, variant in variants.items()
    ]


def write_csv(path: str, rows: list[dict]) -> None:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".tmp")
    with open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, target)


def main() -> None:
    args = parse_arguments()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    host = importlib.import_module("standalone.host")
    host.ensure_host()
    host.load_extension()
    if args.views % 4:
        sys.exit(f"--views={args.views} is not a multiple of 4: use 4 or 8.")
    if args.only:
        variant = Variant(args.only, args)
        print(max(variant.step()[1] for _ in range(3)))
        return
    with tempfile.TemporaryDirectory() as folder:
        if args.random:
            args.prior, args.multiview = build_random_priors(args.random, Path(folder), args.seed)
        peaks = {name: peak_memory(name, args) for name in VARIANTS}
        rows = run_rounds(args)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    setting = {"device": device, "torch": torch.__version__, "threads": torch.get_num_threads()}
    setting |= {key: getattr(args, key) for key in ("random", "views", "size", "noise", "compile")}
    setting |= {"seed": args.seed}
    rows = [setting | row | {"peak_mib": round(peaks[row["variant"]])} for row in rows]
    if args.csv:
        write_csv(args.csv, rows)
    seconds = {name: [r["seconds"] for r in rows if r["variant"] == name] for name in VARIANTS}
    print(", ".join(f"{key} {value}" for key, value in setting.items() if value is not None))
    print(f"{'variant':24}{'ms':>10}{'to sds':>9}{'MiB':>9}{'to sds':>9}")
    for name, own in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(own, seconds["sds"], strict=True))
        memory = peaks[name] / peaks["sds"]
        median = 1000 * statistics.median(own)
        print(f"{name:24}{median:10.1f}{ratio:8.2f}x{peaks[name]:9.0f}{memory:8.2f}x")


if __name__ == "__main__":
    main()
