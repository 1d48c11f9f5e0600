"""How much faster the hash grid's fast paths are than its plain twin, on this machine.

    python benchmarks/encoding.py
    python benchmarks/encoding.py --points 200000 --grids tiny --threads 2
    python benchmarks/encoding.py --device cuda --csv outputs/encoding.csv

The grids are those of configs/tiny/jointdreamer.yaml and configs/jointdreamer.yaml. Three passes:
forward, forward and gradient of the parameters (training), and the double backward of analytic
normals. The variants are the plain twin, the fast path in PyTorch and, on a GPU, Triton's kernels.
They take turns, round by round; ratios are medians of the rounds' ratios.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "jointdreamer" / "standalone"))

import torch
from omegaconf import OmegaConf
from tinycudann import grid_fast
from tinycudann.grid_layout import GridLayout
from tinycudann.grid_plain import grid_encode_plain

from benchmarks.measure import as_text, device_name, load_host, median_ratio, take_turns

ROOT = Path(__file__).resolve().parents[1]
GRIDS = {"tiny": "configs/tiny/jointdreamer.yaml", "full": "configs/jointdreamer.yaml"}
VARIANTS = {  # a function, and whether Triton may compute it
    "plain": (grid_encode_plain, False),
    "pytorch": (grid_fast.grid_encode, False),
    "triton": (grid_fast.grid_encode, True),
}


def parse_arguments() -> argparse.Namespace:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if on_gpu else "cpu")
    parser.add_argument("--points", type=int, help="2^18 on a GPU, 2^15 on a CPU")
    parser.add_argument("--grids", nargs="+", choices=list(GRIDS), default=list(GRIDS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    if args.device == "cuda" and not on_gpu:
        parser.error("--device cuda: there is no CUDA device that torch can use")
    args.points = args.points or (2**18 if args.device == "cuda" else 2**15)
    return args


def make_passes(layout: GridLayout, n_points: int, device: str) -> dict[str, Callable]:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(n_points, 3, generator=generator).to(device)
    params = torch.randn(layout.n_params, generator=generator).to(device).requires_grad_()
    grad = torch.randn(n_points, layout.n_output_dims, generator=generator).to(device)

    def forward(encode: Callable) -> None:
        with torch.no_grad():
            encode(points, params, layout)

    def training(encode: Callable) -> None:
        params.grad = None
        encode(points, params, layout).backward(grad)

    def normals(encode: Callable) -> None:
        params.grad = None
        x = points.clone().requires_grad_()
        value = (encode(x, params, layout) * grad).sum()
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        (value + slope.square().sum()).backward()

    return {"forward": forward, "training": training, "analytic normals": normals}


def measure(layout: GridLayout, args: argparse.Namespace) -> list[dict]:
    """One row a pass: milliseconds of each variant, and the plain twin's time over them."""
    rows = []
    for name, run in make_passes(layout, args.points, args.device).items():
        steps = {
            variant: partial(with_variant, variant, run)
            for variant in VARIANTS
            if variant != "triton" or uses_triton(layout, args.device)
        }
        rounds = take_turns(steps, args.rounds, warm_up=1)
        row = {"pass": name} | {f"{variant}_ms": "" for variant in VARIANTS}
        for variant in steps:
            median = statistics.median(each[variant] for each in rounds)
            row[f"{variant}_ms"] = round(median * 1e3, 3)
        for slow, quick in [("plain", "pytorch"), ("plain", "triton"), ("pytorch", "triton")]:
            ratio = round(median_ratio(rounds, slow, quick), 2) if quick in steps else ""
            row[f"{slow}/{quick}"] = ratio
        rows.append(row)
    return rows


def with_variant(variant: str, run: Callable) -> None:
    encode, with_triton = VARIANTS[variant]
    os.environ[grid_fast.SWITCH] = str(int(with_triton))
    run(encode)


def uses_triton(layout: GridLayout, device: str) -> bool:
    """Whether the kernels would run, so that no other variant is measured under their name."""
    os.environ[grid_fast.SWITCH] = "1"
    points, params = torch.zeros(1, 3, device=device), torch.zeros(layout.n_params, device=device)
    return grid_fast._operations(points, params, layout) is not grid_fast.grid_torch


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    device = device_name() if args.device == "cuda" else "cpu"
    print(f"{args.points} points on {device}, torch {torch.__version__}, {args.threads} threads")
    rows = []
    for grid in args.grids:
        config = OmegaConf.load(ROOT / GRIDS[grid]).system.geometry.pos_encoding_config
        layout = GridLayout.from_config(config)
        print(f"\n{grid} grid: {len(layout.levels)} levels, {layout.n_params} parameters")
        own = measure(layout, args)
        print(as_text(own))
        rows += [{"grid": grid, "points": args.points} | row for row in own]
    if args.csv:
        load_host()
        from jointdreamer.csv_table import write_csv

        about = {"device": device, "threads": args.threads, "torch": torch.__version__}
        write_csv(args.csv, [row | about for row in rows])


if __name__ == "__main__":
    main()
