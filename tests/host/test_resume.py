"""A run ended by a signal at any point and resumed ends as one that was left alone."""

import json
import signal

import pytest
from helpers.killed_runs import play
from helpers.toy_run import write_config

CASES = {
    "before the first checkpoint": {"kills": [3]},
    "between two checkpoints": {"kills": [7]},
    "right after a checkpoint": {"kills": [10]},
    "one step after a checkpoint": {"kills": [11]},
    "while a checkpoint is written": {"kills": [("fsync", 5)]},
    "while the last checkpoint is replaced": {"kills": [("fsync", 7)]},
    "when the last checkpoint is in place": {"kills": [("replace", 4)]},
    "twice": {"kills": [7, 13]},
    "with accumulated gradients": {
        "kills": [13],
        "arguments": ["trainer.accumulate_grad_batches=2"],
    },
    "with checkpoints after validation": {
        "kills": [14],
        "arguments": ["checkpoint.every_n_train_steps=null"],
    },
    "SIGTERM between two checkpoints": {"kills": [("SIGTERM", 7)]},
    "Ctrl-C before the first checkpoint": {"kills": [("SIGINT", 0)]},
    "SIGTERM in a step that is validated": {"kills": [("SIGTERM", 11), ("SIGINT", 12)]},
    "Ctrl-C with accumulated gradients": {
        "kills": [("SIGINT", 13)],
        "arguments": ["trainer.accumulate_grad_batches=2"],
    },
}
STATUS = {"SIGTERM": 143, "SIGINT": 130}  # else it is killed


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    config = str(write_config(folder / "toy.yaml"))
    cases = {name: {"config": config, **case} for name, case in CASES.items()}
    return play(folder, cases, "helpers.toy_run")


def batches(run):
    """(step, batch) since it was resumed."""
    return json.loads(run["texts"]["it20-test.json"])


def test_a_killed_run_ends_with_the_same_weights(runs):
    for case, run in runs.items():
        *kills, last = run["killed"]["codes"]
        assert run["whole"]["codes"] == [0] and last == 0, case
        asked = [kill[0] if isinstance(kill, tuple) else None for kill in CASES[case]["kills"]]
        assert kills and kills == [STATUS.get(one, -signal.SIGKILL) for one in asked], case
        assert run["killed"]["step"] == run["whole"]["step"] == 20, case
        assert run["killed"]["weights"] == run["whole"]["weights"], case
        assert run["killed"]["lr"] == run["whole"]["lr"], case


def test_a_resumed_run_validates_and_saves_at_the_same_steps_with_the_same_batches(runs):
    for case, run in runs.items():
        killed, whole = run["killed"], run["whole"]
        assert killed["saved"] == whole["saved"] and killed["ckpts"] == whole["ckpts"], case
        assert batches(killed) == batches(whole)[-len(batches(killed)) :], case


def test_no_step_is_missing_from_the_logs(runs):
    for case, run in runs.items():
        # a step is logged after its checkpoint is saved, so a kill between the two costs that line
        cut_short = {9} if case.startswith(("while", "when")) else set()
        assert set(range(20)) - set(run["killed"]["logged"]["train/loss"]) <= cut_short, case
        assert run["whole"]["logged"]["train/loss"] == list(range(20)), case


def test_the_kills_hit_what_they_were_meant_to_hit(runs):
    five, ten = "epoch=0-step=5.ckpt", "epoch=0-step=10.ckpt"
    assert len(runs) == 14
    found = {name: run["killed"]["resumed from"][1] for name, run in runs.items()}
    assert found["before the first checkpoint"] == []
    assert found["while a checkpoint is written"] == [five, "last.ckpt"]
    assert found["while the last checkpoint is replaced"] == [ten, five, "last.ckpt"]
    assert found["when the last checkpoint is in place"] == [ten, five, "last.ckpt"]
    starts = {name: batches(run["killed"])[0][0] for name, run in runs.items()}
    assert starts["while a checkpoint is written"] == 5
    assert starts["while the last checkpoint is replaced"] == 10
    assert starts["SIGTERM between two checkpoints"] == 8
    assert starts["Ctrl-C before the first checkpoint"] == 1
