"""A run killed with SIGKILL and resumed ends as one that was never killed."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[1] / "helpers" / "interrupted_runs.py"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    command = [sys.executable, str(PROGRAM), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_killed_run_ends_with_the_same_weights(runs):
    for case, run in runs.items():
        *kills, last = run["killed"]["codes"]
        assert run["whole"]["codes"] == [0] and last == 0, case
        assert kills and set(kills) == {-signal.SIGKILL}, case
        assert run["killed"]["step"] == run["whole"]["step"] == 20, case
        assert run["killed"]["weights"] == run["whole"]["weights"], case
        assert run["killed"]["lr"] == run["whole"]["lr"], case


def test_a_resumed_run_validates_and_saves_at_the_same_steps_with_the_same_batches(runs):
    for case, run in runs.items():
        killed, whole = run["killed"], run["whole"]
        assert killed["saved"] == whole["saved"] and killed["ckpts"] == whole["ckpts"], case
        batches = killed["batches"]  # (step, batch) since it was resumed
        assert batches == whole["batches"][-len(batches) :], case


def test_no_step_is_missing_from_the_logs(runs):
    for case, run in runs.items():
        # a step is logged after its checkpoint is saved, so a kill between the two costs that line
        cut_short = {9} if case.startswith(("while", "when")) else set()
        assert set(range(20)) - set(run["killed"]["logged"]) <= cut_short, case
        assert run["whole"]["logged"] == list(range(20)), case


def test_the_kills_hit_what_they_were_meant_to_hit(runs):
    five, ten = "epoch=0-step=5.ckpt", "epoch=0-step=10.ckpt"
    assert len(runs) == 10
    found = {name: run["killed"]["resumed from"][1] for name, run in runs.items()}
    assert found["before the first checkpoint"] == []
    assert found["while a checkpoint is written"] == [five, "last.ckpt"]
    assert found["while the last checkpoint is replaced"] == [ten, five, "last.ckpt"]
    assert found["when the last checkpoint is in place"] == [ten, five, "last.ckpt"]
    starts = {name: run["killed"]["batches"][0][0] for name, run in runs.items()}
    assert starts["while a checkpoint is written"] == 5
    assert starts["while the last checkpoint is replaced"] == 10
