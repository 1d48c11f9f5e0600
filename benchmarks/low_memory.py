"""The whole recipe within a small GPU's memory, and what that costs in time.

    python benchmarks/low_memory.py --gib 7.3 --csv docs/results/low-memory.csv     # on a GPU
    python benchmarks/low_memory.py --config configs/tiny/jointdreamer.yaml         # to try it

`configs/jointdreamer.yaml` with random weights of the published sizes is trained as it is, and then
with `LOW` by a process that may not take more than `--gib`: both resolutions with the energy,
validation, a checkpoint, and from it the rest of the training, the test and the export, each in a
process of its own. A phase's time is the median of its steps but the first ones; memory is what
PyTorch reserves.
"""

import argparse
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from multiprocessing import get_context
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


def carried_out(
    action: str, command: list[str], gib: float | None, steps: int
) -> tuple[dict, str | None]:
    """The row of one run, which may take so much of the GPU, and its checkpoint.

    To be called in a process of its own, which holds nothing of other runs.
    """
    load_host()
    logging.getLogger("pytorch_lightning").setLevel(logging.INFO)  # which says the chunks
    from jointdreamer.host.launcher import run

    on_gpu = torch.cuda.is_available()
    if on_gpu and gib is not None:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(gib * 2**30 / total)
    clock, begin = StepClock(steps), time.perf_counter()
    ended = run([*command, f"--{action}"], [clock] if action == "train" else [])
    seconds = time.perf_counter() - begin
    if action == "train":
        seconds = statistics.median(clock.seconds[min(WARM_UP, steps - 1) :])
    peak = torch.cuda.max_memory_reserved() / 2**30 if on_gpu else 0.0
    return {"ms": round(1000 * seconds, 1), "reserved_gib": round(peak, 2)}, ended["ckpt"]


def alone(*args) -> tuple[dict, str | None]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(carried_out, *args).result()


def measured(
    command: list[str], settings: str, gib: float | None, steps: int, actions: Sequence[str]
) -> Iterator[dict]:
    """Rows of both phases, of which the second starts from the first's checkpoint, and actions."""
    more = [f"data.resolution_milestones=[{steps}]", f"trainer.val_check_interval={steps}"]
    more += ["system.guidance.energy_weight=0.3125", f"checkpoint.every_n_train_steps={steps}"]
    runs = [
        (f"train, {phase}", "train", [*more, f"trainer.max_steps={(index + 1) * steps}"])
        for index, phase in enumerate(PHASES)
    ]
    resumed: list[str] = []
    for part, action, own in (*runs, *((action, action, [THIN]) for action in actions)):
        entry, checkpoint = alone(action, [*command, *own, *resumed], gib, steps)
        resumed = [f"resume={checkpoint}"] if action == "train" else resumed
        entry = {"part": part, "settings": settings} | entry
        print("{part:22}{settings:10}{ms:>10}{reserved_gib:>8}".format(**entry), flush=True)
        yield entry


def main() -> None:
    args, overrides = parse_arguments()
    host = load_host()
    print(f"{device_name()}, torch {torch.__version__}, {host} host")
    with tempfile.TemporaryDirectory() as folder:
        priors = [] if args.config else random_priors(args.priors or Path(folder))
        config = args.config or ROOT / "configs" / "jointdreamer.yaml"
        command = ["--config", str(config), PROMPT, f"exp_root_dir={folder}", *SHORT, *priors]
        command += overrides
        default = measured([*command, "name=default"], "default", None, args.steps, ())
        low = measured([*command, *LOW, "name=low"], "low", args.gib, args.steps, args.actions)
        rows: list[dict] = []
        for entry in low if args.only_low else chain(default, low):
            rows.append(entry)
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
