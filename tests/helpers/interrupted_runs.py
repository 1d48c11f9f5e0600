"""Runs toys that are killed and resumed, each in a process of its own; prints what became of them.

A program and not a fixture: it imports everything once and then forks, and a process that runs
tests has threads that do not survive a fork.
"""

import contextlib
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402

from jointdreamer.host import launcher as trainer  # noqa: E402
from jointdreamer.host import selection as host  # noqa: E402

host.ensure_host()
from helpers.toy_run import write_config  # noqa: E402

trainer.load_extension = lambda: None  # the toy needs no extension

CASES: dict[str, dict[str, Any]] = {
    "before the first checkpoint": {"kill_at_step": 3},
    "between two checkpoints": {"kill_at_step": 7},
    "right after a checkpoint": {"kill_at_step": 10},
    "one step after a checkpoint": {"kill_at_step": 11},
    "while a checkpoint is written": {"kill_in": ("fsync", 5)},
    "while the last checkpoint is replaced": {"kill_in": ("fsync", 7)},
    "when the last checkpoint is in place": {"kill_in": ("replace", 4)},
    "twice": {"kill_at_step": 7, "again_at_step": 13},
    "with accumulated gradients": {"kill_at_step": 13, "trainer.accumulate_grad_batches": 2},
    "with checkpoints after validation": {
        "kill_at_step": 14,
        "checkpoint.every_n_train_steps": "null",
    },
}


def die_in(name: str, number: int) -> None:
    """Lets the `number`-th call of `os.<name>` that saves a checkpoint be the last act.

    Each checkpoint calls `fsync` twice, for its file and after the renaming for the folder.
    """
    real, count = getattr(os, name), [0]

    def dying(*args: Any) -> None:
        count[0] += name == "fsync" or str(args[1]).endswith(".ckpt")
        real(*args)
        if count[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(os, name, dying)


def in_a_process(log: Path, work: Callable[[], int]) -> int:
    """Forks; the child's exit code, negative if a signal ended it."""
    child = os.fork()
    if child == 0:
        with open(log, "a") as file, contextlib.redirect_stdout(file):
            os.dup2(file.fileno(), 2)
            code = 1
            with contextlib.suppress(BaseException):
                code = work()
            file.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def launch(folder: Path, kill: int | tuple[str, int] | None, *overrides: str) -> int:
    """Trains, to the end or until it is killed at a step or in a call (see `die_in`)."""

    def work() -> int:
        if isinstance(kill, tuple):
            die_in(*kill)
        at_step = [f"system.kill_at_step={kill}"] if isinstance(kill, int) else []
        config = ["--config", str(folder / "toy.yaml")]
        return trainer.main([*config, "--train", *overrides, *at_step])

    return in_a_process(folder / "log.txt", work)


def outcome(folder: Path) -> dict[str, Any]:
    """The weights and optimizer state at the end, and which steps left files."""
    run = folder / "outputs" / "toy" / "run"
    ckpt = torch.load(run / "ckpts" / "last.ckpt", weights_only=True)
    digest = hashlib.sha256()
    state = ckpt["optimizer_states"][0]["state"]
    for tensor in [*ckpt["state_dict"].values(), *(t for s in state.values() for t in s.values())]:
        digest.update(tensor.numpy().tobytes())
    return {
        "step": ckpt["global_step"],
        "weights": digest.hexdigest(),
        "lr": ckpt["lr_schedulers"][0]["_last_lr"],
        "ckpts": sorted(file.name for file in (run / "ckpts").glob("*.ckpt")),
        "saved": sorted(file.name for file in (run / "save").iterdir()),
        "batches": json.loads((run / "save" / "it20-test.json").read_text()),
        "logged": _logged_steps(run),
    }


def _logged_steps(run: Path) -> list[int]:
    steps = set()
    for log in (run / "csv_logs").glob("*/metrics.csv"):
        header, *rows = [line.split(",") for line in log.read_text().splitlines()]
        at, loss = header.index("step"), header.index("train/loss")
        steps |= {int(row[at]) for row in rows if row[loss]}
    return sorted(steps)


def play(folder: Path, case: dict[str, Any]) -> dict[str, Any]:
    """What became of a run that is killed and resumed until it is done."""
    run, codes, resumed_from = folder / "outputs" / "toy" / "run", [], []
    kills = [case[key] for key in ("kill_at_step", "again_at_step", "kill_in") if key in case]
    for kill in [*kills, None]:
        found = sorted(file.name for file in run.glob("ckpts/*.ckpt"))
        resume = [f"resume={run}"] if found else []
        codes.append(launch(folder, kill, *config_of(case), *resume))
        resumed_from.append(found)
    return {"codes": codes, "resumed from": resumed_from, **outcome(folder)}


def config_of(case: dict[str, Any]) -> tuple[str, ...]:
    return tuple(f"{key}={value}" for key, value in case.items() if "." in key)


def play_all(root: Path) -> dict[str, Any]:
    """For each case what became of it, and of the same run left alone."""
    alone: dict[tuple[str, ...], dict[str, Any]] = {}
    results = {}
    for number, (name, case) in enumerate(CASES.items()):
        if config_of(case) not in alone:
            config = {key: value for key, value in case.items() if "." in key}
            alone[config_of(case)] = play(new_folder(root / f"{number}-alone"), config)
        results[name] = {"killed": play(new_folder(root / str(number)), case)}
        results[name]["whole"] = alone[config_of(case)]
    return results


def new_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    write_config(folder / "toy.yaml")
    return folder


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(play_all(Path(sys.argv[1]))))
