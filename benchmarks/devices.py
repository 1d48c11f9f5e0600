"""One asset on one and on two devices: what a step takes, and a run that changes their number.

    python benchmarks/devices.py --random full --csv outputs/devices.csv    # on two GPUs
    python benchmarks/devices.py --accelerator cpu --steps 4                # two processes of a CPU

A row a number of devices: a step's time, with the energy, and the views that it sees, which are
those of all devices together. The run on two devices leaves a checkpoint; another on one device
goes on from there, and a third on two from its. It fails if one of them does not end as it should.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks.measure import as_text, device_name, load_host
from benchmarks.training_step import PROMPT, ROOT, random_priors

SHORT = ["system.guidance_eval_step=0", "data.n_val_views=2", "data.n_test_views=2"]
SHORT += ["trainer.val_check_interval=100000", "trainer.enable_progress_bar=false"]
FULL = ["data.batch_size=8", "data.width=64", "data.height=64", "data.resolution_milestones=[]"]
JSD = "system.guidance.energy_weight=0.3125"


def launch(*arguments: str) -> str:
    """`launch.py --train`, and what it said."""
    command = [sys.executable, str(ROOT / "launch.py"), "--train", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    log = done.stdout + done.stderr
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{log[-4000:]}")
    return log


def metrics(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))


def weights(run: Path) -> dict[str, torch.Tensor]:
    state = torch.load(run / "ckpts" / "last.ckpt", weights_only=True, map_location="cpu")
    return {name: value.float() for name, value in state["state_dict"].items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--random", choices=["full"], help="random weights of that size")
    parser.add_argument("--priors", type=Path, help="a folder that keeps them for other calls")
    parser.add_argument("--accelerator", default="gpu")
    parser.add_argument("--steps", type=int, default=30, help="of a run")
    parser.add_argument("--csv", type=Path)
    args, overrides = parser.parse_known_args()
    load_host()
    from jointdreamer.csv_table import write_csv

    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = ROOT / f"configs/{'' if args.random else 'tiny/'}jointdreamer.yaml"
        more = [*SHORT, PROMPT, JSD, f"exp_root_dir={folder}", *overrides]
        if args.random:
            more += [*FULL, *random_priors(args.priors or folder)]
        steps = [f"trainer.max_steps={args.steps}"]
        for count in (1, 2):
            own = [f"name=on-{count}", "tag=run", "use_timestamp=false", f"trainer.devices={count}"]
            own += [f"trainer.accelerator={args.accelerator}"]
            launch("--config", str(config), *more, *steps, *own)
            found = metrics(folder / f"on-{count}" / "run")
            ms = 1000 * found["timed_seconds"] / found["timed_steps"]
            rows.append({"devices": count, "ms": round(ms, 1), "ratio": round(ms / rows[0]["ms"], 3)
                         if rows else 1.0, "peak_gib": found["peak_gpu_gib"]})  # fmt: skip
            rows[-1] |= {"device": device_name(), "torch": torch.__version__, "steps": args.steps}
            print(as_text(rows), flush=True)
            if args.csv:
                write_csv(args.csv, rows)
        run, end = folder / "on-2" / "run", args.steps
        for count, before in ((1, 2), (2, 1)):
            start, end = weights(run), end + 5
            log = launch(f"resume={run}", f"trainer.max_steps={end}", f"trainer.devices={count}")
            said = f"On {count} device{'s' * (count > 1)}, before on {before}"
            assert said in log, f"it did not say: {said}"
            assert metrics(run)["step"] == end and metrics(run)["state"] == "done"
            moved = [not torch.equal(value, start[name]) for name, value in weights(run).items()]
            assert any(moved) and all(value.isfinite().all() for value in weights(run).values())
            print(f"step {end} on {count}, resumed from {before}: {said} ...", flush=True)


if __name__ == "__main__":
    main()
