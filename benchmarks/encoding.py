"""How much faster the hash grid's fast path is than its plain twin, on this machine.

    python benchmarks/encoding.py
    python benchmarks/encoding.py --points 200000 --levels 6 --threads 2

Three passes: forward, forward and gradient of the parameters (training), and the double backward of
analytic normals. Both twins take turns, round by round; ratios are medians of the rounds' ratios.
Runs on a GPU if there is one.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "standalone"))

from tinycudann.grid_fast import grid_encode  # noqa: E402
from tinycudann.grid_layout import GridLayout  # noqa: E402
from tinycudann.grid_plain import grid_encode_plain  # noqa: E402

TWINS = {"fast": grid_encode, "plain": grid_encode_plain}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--features", type=int, default=2)
    parser.add_argument("--log2-hashmap-size", type=int, default=15)
    parser.add_argument("--base-resolution", type=int, default=16)
    parser.add_argument("--per-level-scale", type=float, default=1.5)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def make_passes(layout: GridLayout, n_points: int, device: str) -> dict[str, Callable]:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(n_points, 3, generator=generator).to(device)
    params = torch.randn(layout.n_params, generator=generator).to(device).requires_grad_()
    grad = torch.randn(n_points, layout.n_output_dims, generator=generator).to(device)

    def forward(encode: Callable) -> None:
        with torch.no_grad():
            encode(points, params, layout)

    def training(encode: Callable) -> None:
        encode(points, params, layout).backward(grad)

    def normals(encode: Callable) -> None:
        x = points.clone().requires_grad_()
        value = (encode(x, params, layout) * grad).sum()
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        (value + slope.square().sum()).backward()

    return {"forward": forward, "training": training, "analytic normals": normals}


def seconds(run: Callable, encode: Callable, device: str) -> float:
    start = time.perf_counter()
    run(encode)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = GridLayout.from_config(
        3,
        {
            "otype": "HashGrid",
            "n_levels": args.levels,
            "n_features_per_level": args.features,
            "log2_hashmap_size": args.log2_hashmap_size,
            "base_resolution": args.base_resolution,
            "per_level_scale": args.per_level_scale,
        },
    )
    print(f"{args.points} points, {args.levels} levels on {device}, {args.threads} threads")
    print(f"{'pass':18}{'fast ms':>10}{'plain ms':>10}{'plain / fast':>14}")
    for name, run in make_passes(layout, args.points, device).items():
        rounds = []
        for index in range(args.rounds + 1):
            times = {twin: seconds(run, encode, device) for twin, encode in TWINS.items()}
            if index:  # the first is for warming up
                rounds.append(times)
        fast, plain = (statistics.median(r[twin] for r in rounds) * 1e3 for twin in TWINS)
        ratio = statistics.median(r["plain"] / r["fast"] for r in rounds)
        print(f"{name:18}{fast:10.1f}{plain:10.1f}{ratio:14.2f}")


if __name__ == "__main__":
    main()
