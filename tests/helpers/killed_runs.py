"""Trains a config once undisturbed, and once more for each step at which it is killed and resumed.

    python killed_runs.py CONFIG FOLDER STEP [STEP ...]

Each run is a process of its own, forked before anything was computed. Writes the last checkpoints
to FOLDER/whole.ckpt and FOLDER/killed-STEP.ckpt.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from jointdreamer.host.selection import ensure_host, load_extension  # noqa: E402

ensure_host()
load_extension()

import torch  # noqa: E402
from threestudio_jointdreamer.systems.jointdreamer import JointDreamer  # noqa: E402

from jointdreamer.host.launcher import run  # noqa: E402


def in_own_process(job: Callable[[], None]) -> int:
    """Runs `job` in a fork and returns its exit status, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            job()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_self_at(step: int) -> None:
    """From now on this process dies in the middle of that training step."""
    train = JointDreamer.training_step

    def training_step(self, batch, batch_idx):
        out = train(self, batch, batch_idx)
        if self.true_global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return out

    JointDreamer.training_step = training_step


def main(config: str, folder: Path, steps: list[int]) -> None:
    torch.set_num_threads(1)
    train = ["--config", config, "--train"]

    def go(name: str, *overrides: str, dies_at: int | None = None) -> int:
        def job() -> None:
            if dies_at is not None:
                kill_self_at(dies_at)
            run([*train, f"tag={name}", *overrides])

        return in_own_process(job)

    def last(name: str) -> Path:
        return Path(folder, "outputs", "tiny", name, "ckpts", "last.ckpt")

    assert go("whole") == 0
    shutil.copy(last("whole"), folder / "whole.ckpt")
    for step in steps:
        name = f"killed-{step}"
        assert go(name, dies_at=step) == -signal.SIGKILL
        assert go(name, f"resume={last(name)}") == 0
        shutil.copy(last(name), folder / f"{name}.ckpt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [int(step) for step in sys.argv[3:]])
