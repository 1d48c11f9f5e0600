"""`jointdreamer sweep` as a user calls it, and one run of the real host under it."""

import csv

import pytest
from helpers.sweeps import STAND_IN, sessions, write_sweep
from helpers.tiny_run import write_tiny_config

from jointdreamer.cli import main
from jointdreamer.runs import Run
from jointdreamer.sweeps import run


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "LAUNCHER", STAND_IN)

    def start(*more, **changes):
        return main(["sweep", str(write_sweep(tmp_path, **changes)), *more])

    return start


def test_a_dry_run_shows_the_commands_and_leaves_nothing(sweep, tmp_path, capsys):
    assert sweep("--dry-run", "--seeds", "1,2", "data.x=3") == 0
    printed = capsys.readouterr().out
    assert printed.count("python launch.py --config") == 4
    assert printed.count("waiting") == 4 and printed.count("data.x=3") == 4
    assert not (tmp_path / "out").exists() and sessions(tmp_path) == []


def test_options_take_the_place_of_the_files_values(sweep, tmp_path, capsys):
    (tmp_path / "more.json").write_text('["a green frog"]')
    methods = {"a": {}, "b": {}, "c": {}}
    options = ["--methods", "c,a", "--seeds", "7", "--steps", "3"]
    options += ["--prompts", str(tmp_path / "more.json"), "--out", str(tmp_path / "there")]
    assert sweep(*options, methods=methods) == 0
    with open(tmp_path / "there" / "runs.csv", newline="") as file:
        rows = [(r["method"], r["seed"], r["prompt"], r["steps"]) for r in csv.DictReader(file)]
    assert rows == [("c", "7", "a green frog", "3"), ("a", "7", "a green frog", "3")]
    assert str(tmp_path / "there" / "runs.csv") in capsys.readouterr().out


def test_fresh_starts_over_with_other_settings(sweep, tmp_path, capsys):
    assert sweep() == 0
    assert sweep("data.x=1") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert sweep("data.x=1", "--fresh") == 0
    assert [session["first"] for session in sessions(tmp_path)] == [0, 0]  # of the new folders


def test_the_exit_status_says_that_a_run_failed(sweep, capsys):
    assert sweep('data.fail="no"') == 1
    assert "error: no" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, message",
    [
        (["--jobs", "0"], "jobs=0 must be"),
        (["--together", "0"], "--together=0 must be"),
        (["--methods", "plan"], "--methods plan: there is no such one, but plain"),
        (["--prompts", "no.json"], "no.json does not exist"),
        (["seed=3"], "seed=3 cannot be overridden"),
    ],
)
def test_mistakes_are_one_line_and_status_2(sweep, tmp_path, capsys, options, message):
    assert sweep(*options) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and message in told and told.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_of_the_real_host_is_measured(tmp_path, sd_folder, mv_folder, capsys):
    config = write_tiny_config(
        tmp_path / "real.yaml", sd_folder, mv_folder, data={"n_test_views": 2}
    )
    path = write_sweep(tmp_path, methods={"jsd": {"config": str(config)}}, prompts=["a bear"])
    assert main(["sweep", str(path)]) == 0, capsys.readouterr().out
    (row,) = csv.DictReader((tmp_path / "out" / "runs.csv").read_text().splitlines())
    assert (row["state"], row["steps"], row["attempts"]) == ("done", "4", "1")
    assert float(row["steps_per_second"]) > 0.1 and float(row["peak_host_gib"]) > 0.2
    folder = Run(tmp_path / "out" / row["folder"])
    assert folder.newest("test.mp4").name == "it4-test.mp4"
    assert len(folder.metrics()["train/loss_sds"]) == 4
    (command,) = (folder.folder / "cmd.txt").read_text().splitlines()
    assert command.startswith("python -m jointdreamer.host.launcher --config ")
