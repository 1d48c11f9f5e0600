"""What a second busy process costs a run, with this project's thread settings and with torch's own.

    python benchmarks/busy_machine.py
    python benchmarks/busy_machine.py --csv docs/results/busy-machine.csv

Steps of the demo's config, without the start: alone, and beside processes that keep a core busy.
The four take turns, round by round; ratios are medians of the rounds' ratios.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.measure import as_text, median_ratio
from jointdreamer.csv_table import write_csv

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {"ours": {}, "torch's": {"GOMP_SPINCOUNT": "300000"}}  # what is set already stays
SMALL = ["data.n_test_views=1", "data.eval_width=16", "data.eval_height=16"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, default=1, help="processes beside the run")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()

    kinds = [(name, busy) for name in SETTINGS for busy in (0, args.busy)]
    rounds = [
        {kind: _seconds_a_step(args.steps, *kind) for kind in kinds} for _ in range(args.rounds)
    ]
    rows = [
        {
            "threads": name,
            "idle_steps_per_s": round(1 / min(each[name, 0] for each in rounds), 2),
            "busy_steps_per_s": round(1 / min(each[name, args.busy] for each in rounds), 2),
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


def _seconds_a_step(steps: int, setting: str, busy: int) -> float:
    command = [sys.executable, str(ROOT / "launch.py"), "--train", f"trainer.max_steps={steps}"]
    command += ["--config", str(ROOT / "configs" / "tiny" / "jointdreamer.yaml"), *SMALL]
    command += ["system.prompt_processor.prompt=a red bear", "tag=run", "use_timestamp=false"]
    with tempfile.TemporaryDirectory() as folder, _kept_busy(busy):
        command.append(f"exp_root_dir={folder}")
        subprocess.run(command, check=True, env=os.environ | SETTINGS[setting], capture_output=True)
        (metrics,) = Path(folder).glob("*/run/metrics.json")
        return 1 / json.loads(metrics.read_text())["steps_per_second"]


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
