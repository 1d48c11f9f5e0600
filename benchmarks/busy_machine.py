"""What a second busy process costs a run, with this project's thread settings and with torch's own.

    python benchmarks/busy_machine.py
    python benchmarks/busy_machine.py --steps 60 --rounds 5 --csv docs/results/busy-machine.csv

A tiny run of a few steps, from start to end, alone and beside processes that keep a core busy each.
The four take turns, round by round; ratios are medians of the rounds' ratios.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.measure import as_text, median_ratio, take_turns
from jointdreamer.csv_table import write_csv

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {"ours": {}, "torch's": {"GOMP_SPINCOUNT": "300000"}}  # what is set already stays
SMALL = ["data.n_test_views=1", "data.eval_width=16", "data.eval_height=16"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, default=1, help="processes beside the run")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        variants = {
            (name, busy): lambda name=name, busy=busy: _run(args.steps, name, busy, folder)
            for name in SETTINGS
            for busy in (0, args.busy)
        }
        rounds = take_turns(variants, args.rounds, warm_up=1)
    rows = [
        {
            "threads": name,
            "idle_s": round(min(each[name, 0] for each in rounds), 1),
            "busy_s": round(min(each[name, args.busy] for each in rounds), 1),
            "busy_to_idle": round(median_ratio(rounds, (name, args.busy), (name, 0)), 2),
            "idle_to_torchs": round(median_ratio(rounds, (name, 0), ("torch's", 0)), 2),
            "steps": args.steps,
            "cores": os.cpu_count(),
        }
        for name in SETTINGS
    ]
    print(as_text(rows))
    if args.csv:
        write_csv(args.csv, rows)


def _run(steps: int, setting: str, busy: int, folder: str) -> None:
    command = [sys.executable, str(ROOT / "launch.py"), "--train", f"trainer.max_steps={steps}"]
    command += ["--config", str(ROOT / "configs" / "tiny" / "jointdreamer.yaml"), *SMALL]
    command += ["system.prompt_processor.prompt=a red bear", f"exp_root_dir={folder}"]
    command += [f"tag={len(os.listdir(folder))}-{setting}-{busy}"]
    with _kept_busy(busy):
        subprocess.run(command, check=True, env=os.environ | SETTINGS[setting], capture_output=True)


@contextmanager
def _kept_busy(cores: int) -> Iterator[None]:
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


if __name__ == "__main__":
    main()
