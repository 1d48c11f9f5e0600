"""The whole recipe within a small GPU's memory, and what that costs in time.

    python benchmarks/low_memory.py --gib 7.3 --csv docs/results/low-memory.csv     # on a GPU
    python benchmarks/low_memory.py --config configs/tiny/jointdreamer.yaml         # to try it

`configs/jointdreamer.yaml` with random weights of the published sizes is trained as it is, and then
with `LOW` by a process that may not take more than `--gib`: both resolutions with the energy,
validation, a checkpoint, and from it the rest of the training, the test and the export. A phase's
time is the median of its steps but the first ones; memory is what PyTorch reserves.
"""

import argparse
import gc
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks.measure import device_name, load_host
from benchmarks.training_step import PROMPT, ROOT, WARM_UP, StepClock, random_priors

LOW = ["system.guidance.memory=low"]
PHASES = ("8 x 64 px", "4 x 256 px")
ACTIONS = ("validate", "test", "export")
THIN = "system.geometry.isosurface_threshold=2.0"  # so few steps leave it soft
SHORT = ["data.n_val_views=2", "data.n_test_views=2", "system.guidance_eval_step=0"]


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, help="this one, with its own priors")
    parser.add_argument("--gib", type=float, default=7.3, help="of the GPU; default: %(default)s")
    parser.add_argument("--priors", type=Path, help="a folder that keeps them for other calls")
    parser.add_argument("--only-low", action="store_true", help="not the default beside it")
    parser.add_argument("--steps", type=int, default=14, help="of a phase")
    parser.add_argument("--actions", nargs="+", choices=ACTIONS, default=ACTIONS, help="after it")
    parser.add_argument("--csv", type=Path)
    return parser.parse_known_args()


def reserved() -> float:
    """The peak since the last call, GiB; 0 without a GPU."""
    if not torch.cuda.is_available():
        return 0.0
    peak = torch.cuda.max_memory_reserved() / 2**30
    gc.collect()  # models of the run before
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return peak


def train(command: list[str], steps: int, settings: str) -> tuple[list[dict], str]:
    """Both phases, with a checkpoint between them that the second starts from; its path."""
    from jointdreamer.host.launcher import run

    more = [f"data.resolution_milestones=[{steps}]", f"trainer.val_check_interval={steps}"]
    more += ["system.guidance.energy_weight=0.3125", f"checkpoint.every_n_train_steps={steps}"]
    rows, checkpoint = [], None
    for index, phase in enumerate(PHASES):
        clock = StepClock(steps)
        resumed = [f"resume={checkpoint}"] if checkpoint else []
        last = f"trainer.max_steps={(index + 1) * steps}"
        ended = run([*command, "--train", *more, last, *resumed], [clock])
        checkpoint = ended["ckpt"]
        milliseconds = 1000 * statistics.median(clock.seconds[min(WARM_UP, steps - 1) :])
        rows.append(row(f"train, {phase}", settings, milliseconds))
    return rows, checkpoint


def row(part: str, settings: str, milliseconds: float) -> dict:
    entry = {"part": part, "settings": settings, "ms": round(milliseconds, 1)}
    entry["reserved_gib"] = round(reserved(), 2)
    print(f"{part:22}{settings:10}{entry['ms']:>10}{entry['reserved_gib']:>8}", flush=True)
    return entry


def main() -> None:
    args, overrides = parse_arguments()
    host = load_host()
    logging.getLogger("pytorch_lightning").setLevel(logging.INFO)  # which says the chunks
    from jointdreamer.host.launcher import run

    print(f"{device_name()}, torch {torch.__version__}, {host} host")
    with tempfile.TemporaryDirectory() as folder:
        priors = [] if args.config else random_priors(args.priors or Path(folder))
        config = args.config or ROOT / "configs" / "jointdreamer.yaml"
        command = ["--config", str(config), PROMPT, f"exp_root_dir={folder}", *SHORT, *priors]
        command += overrides
        rows = []
        if not args.only_low:
            rows, _ = train([*command, "name=default"], args.steps, "default")
        if torch.cuda.is_available():
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(args.gib * 2**30 / total)
        low = [*command, *LOW, "name=low"]
        more, checkpoint = train(low, args.steps, "low")
        rows += more
        save(rows, args, host)
        for action in args.actions:
            begin = time.perf_counter()
            run([*low, THIN, f"--{action}", f"resume={checkpoint}"])
            rows.append(row(action, "low", 1000 * (time.perf_counter() - begin)))
            save(rows, args, host)


def save(rows: list[dict], args: argparse.Namespace, host: str) -> None:
    from jointdreamer.csv_table import write_csv

    for entry in rows:
        entry |= {"limit_gib": args.gib if entry["settings"] == "low" else "", "host": host}
        entry |= {"device": device_name(), "torch": torch.__version__}
    if args.csv:
        write_csv(args.csv, rows)


if __name__ == "__main__":
    main()
