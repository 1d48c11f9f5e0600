"""Times runs one after another in one process, each with the GPU to itself.

python -m benchmarks.janus_benchmark.timing < LISTS_OF_ARGUMENTS.json
"""

import gc
import json
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from benchmarks.baselines import register
from jointdreamer.sweeps.plan import PlannedRun

ROOT = Path(__file__).resolve().parents[2]
WARM_STEPS = 20  # of a first, untimed go at each method: the energies' weights begin before them
OF_ONE_RUN = ("exp_root_dir=", "name=", "tag=", "seed=", "system.prompt_processor.prompt=")


def time_runs(runs: Sequence[PlannedRun], log: Path) -> bool:
    """Carries the runs out; False after Ctrl-C. `Record.of` says what they took."""
    from jointdreamer.sweeps.run import note

    for planned in runs:
        note(planned, "settings", planned.settings())
    command = [sys.executable, "-m", "benchmarks.janus_benchmark.timing"]
    arguments = json.dumps([planned.arguments() for planned in runs])
    with open(log, "a", encoding="utf-8") as file:
        try:
            subprocess.run(command, cwd=ROOT, input=arguments, text=True, stdout=file, stderr=file)
        except KeyboardInterrupt:
            return False
    return True


def main(runs: Sequence[list[str]]) -> None:
    """Every method's first steps elsewhere, until its kernels are loaded and chosen; then a run."""
    import torch

    from jointdreamer.host.launcher import run

    warm: set[tuple[str, ...]] = set()
    for arguments in runs:
        method = tuple(one for one in arguments if not one.startswith(OF_ONE_RUN))
        try:
            if method not in warm:
                warm.add(method)
                with tempfile.TemporaryDirectory() as folder:
                    run([*arguments, f"exp_root_dir={folder}", f"trainer.max_steps={WARM_STEPS}"])
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            run(arguments)
        except Exception:  # the next one may be well
            traceback.print_exc()


if __name__ == "__main__":
    register()
    main(json.load(sys.stdin))
