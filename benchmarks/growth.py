"""How a training step's time and memory grow with the number of views and with their size.

    python benchmarks/growth.py --random full --out outputs/growth     # on a GPU
    python benchmarks/growth.py --out outputs/growth --steps 6         # the tiny priors

JSD on the V views of an object: `--views` of the first of `--sizes` pixels, and four views of every
size. A time is the median of the steps but the first ones, memory the GPU's peak. Writes
`growth.csv` and `growth.png`.
"""

import argparse
import gc
import statistics
import sys
import tempfile
import warnings
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from matplotlib.figure import Figure

from benchmarks.measure import device_name, load_host
from benchmarks.training_step import PROMPT, ROOT, WARM_UP, random_priors, run

VIEWS, SIZES = [2, 4, 6, 8], [64, 128, 256, 512]
QUANTITIES = {"ms": "ms a step", "peak_gib": "GiB at most"}


def measure(config: str, overrides: list[str], views: int, size: int, steps: int) -> dict:
    own = [f"data.n_view={views}", f"data.batch_size={views}", "data.resolution_milestones=[]"]
    own += [f"data.width={size}", f"data.height={size}", "system.guidance.energy_weight=0.3125"]
    row = {"views": views, "size": size, "ms": "out of memory", "peak_gib": ""}
    try:
        clock = run(config, overrides + own, steps, 1)
    except torch.OutOfMemoryError:
        pass
    else:
        row["ms"] = round(1000 * statistics.median(clock.seconds[min(WARM_UP, steps - 1) :]), 1)
        row["peak_gib"] = round(clock.peaks[0], 2)
    clock = None
    gc.collect()
    torch.cuda.empty_cache()
    return row | {"steps": steps, "device": device_name(), "torch": torch.__version__}


def plot(rows: list[dict], path: Path) -> None:
    """Time and memory against the views, and against the size."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    by_views = [row for row in rows if row["size"] == rows[0]["size"]]
    by_size = [row for row in rows if row["views"] == 4]
    panels = (("views", by_views, "views"), ("size", by_size, "pixels of a side, four views"))
    for axes, (key, own, label) in zip(figure.subplots(1, 2), panels, strict=True):
        own = sorted((row for row in own if row["ms"] != "out of memory"), key=lambda r: r[key])
        for color, (quantity, name) in zip(("C0", "C1"), QUANTITIES.items(), strict=True):
            scale = axes if quantity == "ms" else axes.twinx()
            scale.plot([r[key] for r in own], [r[quantity] for r in own], color=color, marker="o")
            scale.set_ylim(bottom=0)
            scale.set_ylabel(name, color=color)
        axes.set_xlabel(label)
        axes.set_xticks([row[key] for row in own])
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--random", choices=["full"], help="random weights of that size")
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--priors", type=Path, help="a folder that keeps them for other calls")
    parser.add_argument("--views", nargs="+", type=int, default=VIEWS)
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--steps", type=int, default=12)
    args, overrides = parser.parse_known_args()
    warnings.filterwarnings("ignore", ".*")
    load_host()
    from jointdreamer.csv_table import write_csv

    args.out.mkdir(parents=True, exist_ok=True)
    config = str(ROOT / f"configs/{'' if args.random else 'tiny/'}jointdreamer.yaml")
    cases = dict.fromkeys(
        [(views, args.sizes[0]) for views in args.views] + [(4, size) for size in args.sizes]
    )
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        overrides += [PROMPT, "system.guidance_eval_step=0", f"exp_root_dir={folder}"]
        overrides += random_priors(args.priors or Path(folder)) if args.random else []
        for views, size in cases:
            rows.append(measure(config, overrides, views, size, args.steps))
            print({key: rows[-1][key] for key in ("views", "size", *QUANTITIES)}, flush=True)
            write_csv(args.out / "growth.csv", rows)
    plot(rows, args.out / "growth.png")


if __name__ == "__main__":
    main()
