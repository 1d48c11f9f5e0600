"""Judges many runs at a time, as `jointdreamer evaluate --render-faces` then finds it."""

import os
from collections.abc import Sequence
from contextlib import redirect_stderr
from functools import cache
from pathlib import Path
from typing import Any

from joblib import delayed

from benchmarks.baselines import register
from benchmarks.measure import all_of


def judge_faces(runs: Sequence[Path], features: Path, jobs: int, device: str | None) -> None:
    """Fills the feature store with the Janus detector's scores, by `jobs` processes."""
    all_of("faces", (delayed(_judge)(run, features, device) for run in runs), jobs)


def _judge(run: Path, features: Path, device: str | None) -> None:
    detector = _detector()
    from jointdreamer.evaluation.assets import read_asset
    from jointdreamer.evaluation.feature_store import FeatureStore
    from jointdreamer.evaluation.verdicts import judge_assets
    from jointdreamer.runs import Run

    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):  # a bar for each run
        judge_assets([read_asset(Run(run))], detector, FeatureStore(features), True, device)


@cache
def _detector() -> Any:
    register()
    from jointdreamer.janus.detectors import find_detector

    return find_detector("tiny")
