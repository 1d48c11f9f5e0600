"""How runs become processes: the commands that carry them out, alone or in groups."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .plan import PlannedRun
from .records import FOLDER, write_whole

LAUNCHER, JOINT_LAUNCHER = (
    str(Path(__file__).with_name(name)) for name in ("launcher.py", "joint_launcher.py")
)


@dataclass(frozen=True)
class Machinery:
    """How runs are started.

    Attributes:
        entry: what runs a config, `run(argv)`, given as a function of an importable module.
        jobs: runs at a time.
        backend: joblib's; "ray" is a cluster, whose machines see `out` and Python at one path.
        gpus: of this machine, as CUDA_VISIBLE_DEVICES names them; used in turn.
        together: runs of one method that share a process and its calls of the guidance, at most;
            `jobs` then counts processes.
    """

    entry: Callable[[list[str]], Any]
    jobs: int = 1
    backend: str = "threading"
    gpus: Sequence[str] = field(default_factory=list)
    together: int = 1

    def task(self, run: PlannedRun, owner: Path) -> dict[str, Any]:
        top = sys.modules[self.entry.__module__.partition(".")[0]]
        here = self.backend != "ray"  # Ray shares its machines' GPUs out itself
        return {
            "argv": run.arguments(),
            "entry": f"{self.entry.__module__}:{self.entry.__qualname__}",
            "path": str(_folder_of(top)),
            "owner": str(owner),
            "at_once": self.jobs,
            "places": here,
            "gpus": list(self.gpus) if here else [],
            "threads": max(1, (os.cpu_count() or 1) // self.jobs) if here else 1,
        }


def _folder_of(module: Any) -> Path:
    """What has to be on the path for `import module`."""
    if hasattr(module, "__path__"):
        return Path(next(iter(module.__path__))).resolve().parent
    return Path(module.__file__).resolve().parent


def visible_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES has to name them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def groups_of(runs: Sequence[PlannedRun], size: int, jobs: int) -> list[list[PlannedRun]]:
    """Runs of one method in groups of at most `size`, in order of their first runs.

    They are no larger than they have to be for `jobs` processes to be done in as many rounds as
    with groups of `size`: with 3 x 16 runs of 11 methods and 16 processes, 44 groups of 12 in
    three rounds, of which 33 of 16 would leave a single one to the third.
    """
    rounds = _rounds(_divided(runs, size), jobs)
    sizes = range(1, size + 1)
    return next(
        groups for groups in (_divided(runs, n) for n in sizes) if _rounds(groups, jobs) <= rounds
    )


def _rounds(groups: Sequence[Any], jobs: int) -> int:
    return -(-len(groups) // jobs)


def _divided(runs: Sequence[PlannedRun], size: int) -> list[list[PlannedRun]]:
    groups: list[list[PlannedRun]] = []
    open_ones: dict[Any, list[PlannedRun]] = {}
    for run in runs:
        kind = run.method, run.overrides
        if kind not in open_ones or len(open_ones[kind]) == size:
            open_ones[kind] = []
            groups.append(open_ones[kind])
        open_ones[kind].append(run)
    return groups


def prepare(run: PlannedRun, task: dict[str, Any]) -> str:
    """Leaves the run's task in its folder; returns the task's path."""
    folder = run.folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "settings.json", json.dumps(run.settings(), indent=1))
    write_whole(folder / "task.json", json.dumps(task, indent=1))
    return str(folder / "task.json")


def command_for(tasks: Sequence[str]) -> list[str]:
    """The process that carries tasks out."""
    return [sys.executable, LAUNCHER if len(tasks) == 1 else JOINT_LAUNCHER, *tasks]
