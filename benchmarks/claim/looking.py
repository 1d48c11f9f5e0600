"""Looks for faces in many runs at a time, as `jointdreamer evaluate --render-faces` then finds it.

python -m benchmarks.claim.looking FEATURES RUN...
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from joblib import Parallel, delayed, parallel_config
from rich.progress import Progress

ROOT = Path(__file__).resolve().parents[2]
JUDGED = "judged"


def look(runs: Sequence[Path], features: Path, jobs: int, device: str | None) -> None:
    """Fills the feature store with the detector's scores, by `jobs` processes.

    Raises:
        ValueError: a process failed; names the last line that it wrote.
    """
    shares = [runs[start::jobs] for start in range(min(jobs, len(runs)))]
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    environment = {"OMP_NUM_THREADS": threads, **os.environ}
    with Progress() as bar, parallel_config(backend="threading", n_jobs=jobs):
        task = bar.add_task("looking for faces", total=len(runs))
        Parallel()(
            delayed(_look)(share, features, device, environment, lambda: bar.advance(task))
            for share in shares
        )


def _look(
    runs: Sequence[Path],
    features: Path,
    device: str | None,
    environment: Mapping[str, str],
    advance: Callable[[], None],
) -> None:
    command = [sys.executable, "-m", "benchmarks.claim.looking", str(features), device or "auto"]
    process = subprocess.Popen(
        [*command, *map(str, runs)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    line = ""
    try:
        for line in process.stdout:
            if line.startswith(JUDGED):
                advance()
        if process.wait():
            raise ValueError(f"looking for faces failed: {line.strip()}")
    finally:
        process.kill()
        process.wait()


def main(features: Path, device: str, runs: Sequence[Path]) -> None:
    from benchmarks.baselines.running import register

    register()
    from jointdreamer.evaluation.assets import read_asset
    from jointdreamer.evaluation.feature_store import FeatureStore
    from jointdreamer.runs import Run
    from jointdreamer.evaluation.verdicts import judge_assets
    from jointdreamer.janus.detector import find_detector

    detector, store = find_detector("tiny"), FeatureStore(features)
    for run in runs:
        asset = read_asset(Run(run))
        judge_assets([asset], detector, store, True, None if device == "auto" else device)
        print(JUDGED, run, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], [Path(run) for run in sys.argv[3:]])
