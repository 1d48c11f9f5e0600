"""Times runs one after another in one process, each with the machine to itself.

python -m benchmarks.claim.timing TASK.json...
"""

import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.baselines.running import register

register()

from rich.console import Console  # noqa: E402

from jointdreamer.sweeps import machinery  # noqa: E402
from jointdreamer.sweeps.machinery import Machinery, prepare  # noqa: E402
from jointdreamer.sweeps.plan import PlannedRun  # noqa: E402
from jointdreamer.sweeps.records import Record  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SWEEPS = Path(machinery.__file__).parent  # whose programs import their neighbours alone
WARM_STEPS = 20  # of a first, untimed go at each method: the energies' weights begin before them
OF_ONE_RUN = (
    *("exp_root_dir=", "name=", "tag=", "seed=", "system.prompt_processor.prompt="),
    "resume=",
)


def time_runs(runs: Sequence[PlannedRun], how: Machinery, console: Console) -> bool:
    """Carries out those that are not done; False after Ctrl-C. `Record.of` says what they took."""
    waiting = [run for run in runs if not Record.of(run).done]
    if not waiting:
        return True
    paths = [prepare(run, how.task(run, owner=Path())) for run in waiting]
    with console.status(f"timing {len(waiting)} methods"):
        command = [sys.executable, "-m", "benchmarks.claim.timing", *paths]
        try:
            subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL)
        except KeyboardInterrupt:
            return False
    for record in map(Record.of, waiting):
        if not record.done:
            told = f"not timed: {record.run.method.name} ({record.state}). {record.log_end()}"
            console.print(told, markup=False, highlight=False)
    return True


def main(paths: Sequence[Path]) -> int:
    sys.path.insert(0, str(SWEEPS))
    import launcher
    import torch
    from metering import Meter, observe_training

    current: list[Meter] = []
    observe_training(lambda: current[-1], lambda system: None)
    launcher.write_log(paths[0].parent)
    codes: list[int] = []
    warm: set[tuple[str, ...]] = set()

    def carry_out(task: dict[str, Any], argv: list[str]) -> tuple[int, str]:
        sys.argv = ["launch.py", *argv]  # which the host notes in the run's folder
        return launcher.outcome_of(lambda: launcher.find_entry(task)(argv))

    for path in paths:
        task = json.loads(path.read_text())
        method = tuple(one for one in task["argv"] if not one.startswith(OF_ONE_RUN))
        if method not in warm:
            warm.add(method)
            current.append(Meter(at_once=1))  # which nobody reads
            with tempfile.TemporaryDirectory() as folder:
                carry_out(task, _first_steps(task["argv"], folder))
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        current.append(Meter(at_once=1))
        attempt = launcher.Attempt(path.parent, current[-1])
        attempt.note()
        code, state = carry_out(task, task["argv"])
        attempt.finish(state, code)
        codes.append(code)
    return max(codes)


def _first_steps(argv: Sequence[str], folder: str) -> list[str]:
    """The same run elsewhere, over once its kernels are loaded and chosen, and whatever is lazy."""
    own = [argument for argument in argv if not argument.startswith("resume=")]
    return [*own, f"exp_root_dir={folder}", f"trainer.max_steps={WARM_STEPS}"]


if __name__ == "__main__":
    sys.exit(main([Path(path) for path in sys.argv[1:]]))
