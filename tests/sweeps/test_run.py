"""Sweeps of a stand-in host: every run is done once, whatever happens to it or to the sweep."""

import csv
import os
import queue
import signal
import sys
import threading
import time
from contextlib import suppress
from itertools import pairwise

import pytest
from helpers import sweeps
from helpers.sweeps import STAND_IN, sessions, write_sweep
from rich.console import Console

from jointdreamer.host.ownership import locked
from jointdreamer.sweeps import run as running
from jointdreamer.sweeps.plan import read_sweep
from jointdreamer.sweeps.records import Record, is_locked, table_of_methods, table_of_runs
from jointdreamer.sweeps.run import Workers, run_sweep

SLOW = {"data.step_seconds": 0.15}


def go(path, overrides=(), **workers):
    """Carries a sweep out; the records, and what was printed."""
    runs = read_sweep(path, overrides=overrides).runs()
    console = Console(record=True, width=200, file=open(os.devnull, "w"))
    assert run_sweep(runs, Workers(STAND_IN, **workers), console)
    records = [Record.of(run) for run in runs]
    console.print(table_of_runs(records), table_of_methods(records))
    return records, console.export_text()


def rows(folder):
    with open(folder / "out" / "runs.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("backend", ["threading", pytest.param("ray", marks=pytest.mark.slow)])
def test_two_workers_do_every_run_once_and_a_second_call_none(tmp_path, backend, monkeypatch):
    if backend == "ray":
        ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    sweep = write_sweep(tmp_path, seeds=[0, 1], overrides=SLOW)
    try:
        records, _ = go(sweep, jobs=2, backend=backend)
        assert [record.state for record in records] == ["done"] * 4
        begins = [session["begin"] for session in sessions(tmp_path)]
        assert len(begins) == 4
        assert any(b - a < 4 * 0.15 for a, b in pairwise(begins))  # side by side
        go(sweep, jobs=2, backend=backend)
        assert len(sessions(tmp_path)) == 4
    finally:
        if backend == "ray":
            ray.shutdown()


def test_two_sweeps_into_one_folder_are_refused_and_two_into_two_are_not(tmp_path):
    sweep, held, done = write_sweep(tmp_path), threading.Event(), threading.Event()

    def other():
        with locked(tmp_path / "out"):
            held.set()
            done.wait()

    thread = threading.Thread(target=other)
    thread.start()
    try:
        assert held.wait(10)
        with pytest.raises(ValueError, match="another process is at .*--out"):
            go(sweep)
        assert sessions(tmp_path) == []
        (tmp_path / "beside").mkdir()
        go(write_sweep(tmp_path / "beside"))
    finally:
        done.set()
        thread.join()
    go(sweep)


def test_each_run_has_a_line_of_what_it_took(tmp_path):
    (record, *_), printed = go(write_sweep(tmp_path, overrides=SLOW), jobs=2)
    row = rows(tmp_path)[0]
    assert (row["method"], row["seed"], row["prompt"]) == ("plain", "0", "a red bear")
    assert (row["state"], row["exit"], row["steps"], row["attempts"]) == ("done", "0", "4", "1")
    assert (row["device"], row["peak_gpu_gib"], row["at_once"]) == ("cpu", "3.0", "2")
    assert (row["steps_per_second"], row["peak_host_gib"]) == ("9.5", "0.5")
    assert 4 * 0.15 <= float(row["seconds"]) < 10
    assert (tmp_path / "out" / row["folder"]) == record.run.folder
    assert "2/2 plain-seed0" in printed and "2 of 2" in printed


def test_a_failed_and_a_killed_run_stop_no_other_and_the_table_shows_why(tmp_path):
    methods = {
        "wrong": {"overrides": {"data.fail": "data.x=1 is wrong: use 2."}},
        "crash": {"overrides": {"data.crash_at": 3}},
        "dead": {"overrides": {"data.kill_at": 3}},
        "good": {},
    }
    sweep = write_sweep(tmp_path, methods=methods, prompts=["p"])
    _, printed = go(sweep, jobs=2)
    ends = {row["method"]: (row["state"], row["exit"]) for row in rows(tmp_path)}
    assert ends == {
        "wrong": ("failed", "2"),
        "crash": ("failed", "1"),
        "dead": ("killed", "-9"),
        "good": ("done", "0"),
    }
    assert "error: data.x=1 is wrong: use 2." in printed
    assert "RuntimeError: CUDA out of memory" in printed and "killed (SIGKILL)" in printed

    again, _ = go(sweep, jobs=2)  # tries what failed once more, from the newest checkpoint
    assert {r.run.method.name: r.state for r in again}["dead"] == "done"
    firsts = {r.run.method.name: [s["first"] for s in sessions(r.run.folder)] for r in again}
    assert firsts == {"wrong": [0, 0], "crash": [0, 2], "dead": [0, 2], "good": [0]}
    assert (again[2].row["steps"], again[2].row["attempts"]) == (4, 2)


def test_gpus_are_used_in_turn_and_each_by_one_run_at_a_time(tmp_path):
    sweep = write_sweep(tmp_path, seeds=[0, 1, 2], overrides={"data.step_seconds": 0.1})
    go(sweep, jobs=2, gpus=["7", "9"])
    found = sessions(tmp_path)
    assert {session["gpu"] for session in found} == {"7", "9"}
    for gpu in "79":
        begins = [session["begin"] for session in found if session["gpu"] == gpu]
        assert all(b - a > 4 * 0.1 for a, b in pairwise(begins))


def test_what_cannot_start_is_refused_before_anything_starts(tmp_path, monkeypatch):
    sweep = write_sweep(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match="pip install ray"):
        go(sweep, backend="ray")
    go(sweep)
    with pytest.raises(ValueError, match="2 of the runs .* other settings.*overrides.*--fresh"):
        go(sweep, ["data.x=1"])
    assert len(sessions(tmp_path)) == 2


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found


def alive(session):
    with suppress(ProcessLookupError):
        os.kill(session["pid"], 0)
        return True
    return False


def checkpoints(folder):
    return len(list(folder.rglob("last.ckpt"))) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_all_runs_and_the_same_command_goes_on(tmp_path, number):
    sweep = write_sweep(tmp_path, overrides=SLOW, steps=8)
    first = sweeps.start(sweep, "--jobs", "2")
    wait_for(lambda: checkpoints(tmp_path))
    os.killpg(first.pid, number)  # as a terminal does
    output, _ = first.communicate(timeout=20)
    assert first.returncode == 130 and "goes on" in output and "Traceback" not in output
    assert not any(map(alive, sessions(tmp_path)))
    assert {row["state"] for row in rows(tmp_path)} == {"interrupted"}

    second = sweeps.start(sweep, "--jobs", "2")
    output, _ = second.communicate(timeout=30)
    assert second.returncode == 0, output
    assert all(session["first"] >= 2 for session in sessions(tmp_path)[2:])
    assert len(sessions(tmp_path)) == 4
    assert {(row["state"], row["attempts"]) for row in rows(tmp_path)} == {("done", "2")}
    assert not list((tmp_path / "out").glob(".sweep*"))


def test_runs_are_ended_after_max_seconds_and_the_same_call_goes_on(tmp_path):
    sweep = write_sweep(tmp_path, overrides=SLOW, steps=40)
    runs, console = read_sweep(sweep).runs(), Console(file=open(os.devnull, "w"))
    assert not run_sweep(runs, Workers(STAND_IN, jobs=2, max_seconds=2.0), console)
    assert not any(map(alive, sessions(tmp_path))) and not any(Record.of(run).done for run in runs)
    records, _ = go(sweep, jobs=2)
    assert all(record.done for record in records)


def test_a_sweep_that_cannot_write_its_table_ends_its_runs(tmp_path, monkeypatch):
    def full(path, rows):
        raise OSError("the disk is full")

    monkeypatch.setattr(running, "write_csv", full)
    with pytest.raises(OSError, match="the disk is full"):
        go(write_sweep(tmp_path, overrides=SLOW, seeds=[0, 1, 2]))
    assert len(sessions(tmp_path)) < 4 and not any(map(alive, sessions(tmp_path)))


def test_a_run_among_several_that_could_not_tell_how_it_ended_has_failed(tmp_path):
    silent = (sys.executable, "-c", "")
    records, _ = go(write_sweep(tmp_path), together=2, program_together=silent)
    assert [(record.state, record.row["exit"]) for record in records] == [("failed", 1)] * 2


def test_a_run_that_does_not_end_when_told_is_ended_by_force(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "GRACE", 0.2)
    sweep = write_sweep(tmp_path, overrides={"data.step_seconds": 0.2, "data.deaf": 1}, steps=200)
    (run, _) = read_sweep(sweep).runs()
    wanted, slots = tmp_path / "wanted", queue.Queue()
    wanted.touch()
    slots.put(None)
    monkeypatch.setattr(running, "LOOK", 0.2)
    start = running._start

    def starting(*args):
        process = start(*args)
        wait_for(lambda: list(tmp_path.rglob("last.ckpt")))
        wanted.unlink()
        return process

    monkeypatch.setattr(running, "_start", starting)
    running.carry_out([run], Workers(STAND_IN), wanted, slots)
    record = Record.of(run)
    assert (record.state, record.row["exit"]) == ("interrupted", -9)


def test_a_run_that_goes_on_is_not_touched_by_another_sweep_even_if_its_own_was_killed(tmp_path):
    sweep = write_sweep(tmp_path, overrides=SLOW, steps=80, prompts=["p"])
    (run,) = read_sweep(sweep).runs()
    first = sweeps.start(sweep)
    wait_for(lambda: list(tmp_path.rglob("last.ckpt")))
    refused = sweeps.start(sweep, "--fresh")
    output, _ = refused.communicate(timeout=20)
    assert refused.returncode == 2 and "end that sweep first" in output
    first.kill()
    first.wait()
    assert is_locked(run) and Record.of(run).state == "running"
    again = sweeps.start(sweep)
    output, _ = again.communicate(timeout=20)
    assert again.returncode == 1 and "running" in output
    wait_for(lambda: not is_locked(run))
    assert Record.of(run).done and len(sessions(tmp_path)) == 1
