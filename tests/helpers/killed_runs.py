"""Runs that are killed and resumed, and the same runs left alone: what became of each.

A program and not a fixture: it imports everything once and then forks, and a process that runs
tests has threads that do not survive a fork.
"""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def play(folder: Path, cases: dict[str, dict[str, Any]], module: str) -> dict[str, Any]:
    """For each case what became of it (`killed`), and of the same run left alone (`whole`).

    Args:
        cases: a `config`, further `arguments`, and `kills`: steps in whose middle the run dies, or
            the name of a function of `os` and which of its calls for a checkpoint (or for files of
            another ending) is its last act, or the name of a signal and the step in which it comes.
            With `exports`, kills as well, the run is exported afterwards. The first of the cases
            of one config is the one that is left alone, too.
        module: registers what the config names.
    """
    done = subprocess.run(
        [sys.executable, __file__, str(folder), module],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def die_at(step: int, number: int = signal.SIGKILL) -> None:
    import pytorch_lightning as pl

    backward, due = pl.LightningModule.backward, [step]

    def dying(self: Any, *args: Any, **kwargs: Any) -> None:
        if self.true_global_step in due:  # once, though batches may add up to a step
            due.clear()
            os.kill(os.getpid(), number)
        backward(self, *args, **kwargs)

    pl.LightningModule.backward = dying


def die_in(name: str, number: int, ending: str = ".ckpt", by: str = "SIGKILL") -> None:
    """Each checkpoint calls `fsync` twice, for its file and after the renaming for the folder."""
    real, count = getattr(os, name), [0]

    def dying(*args: Any) -> None:
        count[0] += name == "fsync" or str(args[1]).endswith(ending)
        real(*args)
        if count[0] == number:
            count[0] += 1
            os.kill(os.getpid(), signal.Signals[by])

    setattr(os, name, dying)


def in_a_process(log: Path, work: Callable[[], int]) -> int:
    """Forks; the child's exit code, negative if a signal ended it."""
    child = os.fork()
    if child == 0:
        with open(log, "a") as file, contextlib.redirect_stdout(file):
            os.dup2(file.fileno(), 2)
            code = 1
            try:
                code = work()
            except SystemExit as error:
                code = error.code
            except BaseException:
                traceback.print_exc()
            file.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def until_done(folder: Path, case: dict[str, Any], whole: bool = False) -> dict[str, Any]:
    from jointdreamer.host import launcher

    run, codes, found = folder / "run" / "run", [], []
    kills = {"train": case["kills"], "export": case.get("exports")}
    each = [(do, kill) for do, k in kills.items() if k is not None for kill in [*k, None]]
    for action, kill in [(do, kill) for do, kill in each if not whole or kill is None]:
        found.append(sorted(file.name for file in run.glob("ckpts/*.ckpt")))
        arguments = ["--config", case["config"], f"--{action}", *case.get("arguments", [])]
        arguments += [f"exp_root_dir={folder}", "name=run", "tag=run"]
        arguments += [f"resume={run}"] if found[-1] else []

        def work(kill=kill, arguments=arguments) -> int:
            if isinstance(kill, int):
                die_at(kill)
            elif kill is not None and kill[0].startswith("SIG"):
                die_at(kill[1], signal.Signals[kill[0]])
            elif kill is not None:
                die_in(*kill)
            return launcher.main(arguments)

        folder.mkdir(exist_ok=True)
        codes.append(in_a_process(folder / "log.txt", work))
    return {"codes": codes, "resumed from": found, **outcome(run)}


def outcome(run: Path) -> dict[str, Any]:
    """The weights and the optimizer's state at the end, what was logged, which files there are."""
    import torch

    from jointdreamer.runs import Run

    ckpt = torch.load(run / "ckpts" / "last.ckpt", weights_only=True)
    digest, (optimizer,) = hashlib.sha256(), ckpt["optimizer_states"]
    digest.update(json.dumps(optimizer["param_groups"]).encode())
    states = [tensor for state in optimizer["state"].values() for tensor in state.values()]
    for tensor in [*ckpt["state_dict"].values(), *states]:
        digest.update(tensor.numpy().tobytes())
    return {
        "step": ckpt["global_step"],
        "weights": digest.hexdigest(),
        "lr": [scheduler["_last_lr"] for scheduler in ckpt["lr_schedulers"]],
        "ckpts": sorted(file.name for file in (run / "ckpts").glob("*.ckpt")),
        "saved": sorted(file.name for file in (run / "save").iterdir()),
        "logged": {name: [step for step, _ in v] for name, v in Run(run).metrics().items()},
        "outputs": {
            str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in (run / "save").rglob("*")
            if file.is_file()
        },
        "left": sorted(path.name for path in run.rglob(".*") if path.name != ".lock"),
        "texts": {file.name: file.read_text() for file in (run / "save").glob("*.json")},
    }


def main(folder: Path, module: str) -> None:
    import importlib

    import torch

    from jointdreamer.host import launcher
    from jointdreamer.host.selection import ensure_host, load_extension

    torch.set_num_threads(1)
    ensure_host()
    load_extension() if module.startswith("threestudio_jointdreamer") else None
    importlib.import_module(module)
    launcher.load_extension = lambda: None  # which a toy does not need
    whole, results = {}, {}
    for number, (name, case) in enumerate(json.load(sys.stdin).items()):
        same = (case["config"], *case.get("arguments", []))
        if same not in whole:
            whole[same] = until_done(folder / f"{number}-alone", case, whole=True)
        killed = until_done(folder / str(number), case)
        results[name] = {"killed": killed, "whole": whole[same]}
    print(json.dumps(results))


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    main(Path(sys.argv[1]), sys.argv[2])
