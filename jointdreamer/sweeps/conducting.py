"""Carries a sweep out: several processes at a time through joblib, with progress, until Ctrl-C."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import joblib
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .machinery import Machinery, command_for, groups_of, prepare
from .plan import PlannedRun
from .records import FOLDER, Record, note_end, read_json, write_csv, write_whole

BACKENDS = ("threading", "loky", "ray")
LOOK = 0.5  # seconds between two looks at the runs
FAREWELL = 15.0  # seconds that the runs have to end in, a launcher's own GRACE among them


def check_settings(runs: Sequence[PlannedRun]) -> None:
    """Refuses folders that hold runs of these names which were made with other settings.

    Raises:
        ValueError: names the first of them and the settings that differ.
    """
    differing = []
    for run in runs:
        found = read_json(run.folder / FOLDER / "settings.json")
        if found is None and not any(run.folder.glob("ckpts/*.ckpt")):
            continue
        keys = [key for key, value in run.settings().items() if (found or {}).get(key) != value]
        if keys:
            differing.append((run.folder, ", ".join(keys)))
    if differing:
        folder, keys = differing[0]
        raise ValueError(
            f"{len(differing)} of the runs are there with other settings, the first is {folder} "
            f"(differing: {keys}). Add --fresh to replace them, or --out for another folder."
        )


def conduct(runs: Sequence[PlannedRun], machinery: Machinery, console: Console) -> bool:
    """Runs what is not done yet and writes `runs.csv` in the sweep's folder, again and again.

    Returns:
        Whether it came to its end; False after Ctrl-C. What became of each run: `Record.of`.

    Raises:
        ValueError: the folder holds runs with other settings, or the backend is not installed.
        OSError: the sweep's folder cannot be written.
    """
    check_settings(runs)
    waiting = [run for run in runs if not Record.of(run).done]
    if not waiting:
        write_csv(runs[0].out / "runs.csv", [Record.of(run) for run in runs])
        return True
    parallel = _parallel(machinery)
    with _owning(runs[0].out) as owner, _until_interrupted(owner, console) as interrupted:
        groups = groups_of(waiting, machinery.together, machinery.jobs)
        commands = [command_for([prepare(r, machinery.task(r, owner)) for r in g]) for g in groups]
        with _watching(runs, waiting, console):
            try:
                codes = parallel(commands)
            except BaseException:
                # Ctrl-C also reaches the backend's own processes, which may complain
                if not interrupted.is_set():
                    raise
                codes = []
        owner.unlink(missing_ok=True)
        _wait_for_the_end(waiting)
        for group, code in zip(groups, codes, strict=False):
            for run in group:
                note_end(run, code)
    write_csv(runs[0].out / "runs.csv", [Record.of(run) for run in runs])
    return not interrupted.is_set()


def _parallel(machinery: Machinery) -> Callable[[list[list[str]]], list[int]]:
    """A function that has commands run, `jobs` at a time, and returns their exit codes."""
    options = {}
    if machinery.backend == "ray":
        options = _start_ray(machinery.jobs)
    elif machinery.backend == "loky":  # a terminal sends Ctrl-C to its workers, too
        options = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}

    def run_all(commands: list[list[str]]) -> list[int]:
        # only the standard library is called, so that no worker has to import this package; a
        # session of its own keeps Ctrl-C from the run, which its owner's end interrupts instead
        start = joblib.delayed(subprocess.run)
        calls = [
            start(command, cwd=os.getcwd(), stdin=subprocess.DEVNULL, start_new_session=True)
            for command in commands
        ]
        with joblib.parallel_config(backend=machinery.backend, n_jobs=machinery.jobs, **options):
            done = joblib.Parallel(batch_size=1, pre_dispatch="all")(calls)
        return [process.returncode for process in done]

    return run_all


def _start_ray(jobs: int) -> dict[str, Any]:
    """Joins the cluster that RAY_ADDRESS names, or makes one of this machine."""
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError as error:
        raise ValueError("--backend ray needs Ray: pip install ray.") from error
    if not ray.is_initialized():
        local = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": jobs}
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False, **local)
    register_ray()
    gpus = ray.cluster_resources().get("GPU", 0)
    share = min(1.0, int(1e4 * gpus / jobs) / 1e4)
    return {"ray_remote_args": {"num_cpus": 1, "num_gpus": share}}


@contextmanager
def _owning(out: Path) -> Iterator[Path]:
    """A file that says which process wants the runs; without it they end."""
    folder = out / ".sweep" / f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"
    folder.mkdir(parents=True)
    owner = folder / "owner.json"
    write_whole(owner, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
    try:
        yield owner
    finally:
        for file in (owner, *folder.glob("place-*")):
            file.unlink(missing_ok=True)
        with suppress(OSError):  # another sweep may use the upper folder
            folder.rmdir()
            folder.parent.rmdir()


@contextmanager
def _until_interrupted(owner: Path, console: Console) -> Iterator[threading.Event]:
    """Ctrl-C, SIGTERM: all runs are told to end; a second time: as if there was no such care."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def stop(number: int, frame: Any) -> None:
        interrupted.set()
        owner.unlink(missing_ok=True)
        for name in before:
            signal.signal(name, before[name])

    before = {name: signal.signal(name, stop) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
        if interrupted.is_set():
            console.print("Interrupted. The same command goes on.")


def _wait_for_the_end(runs: Sequence[PlannedRun]) -> None:
    deadline = time.monotonic() + FAREWELL
    while time.monotonic() < deadline:
        if all(Record.of(run).state != "running" for run in runs):
            return
        time.sleep(0.1)


@contextmanager
def _watching(
    runs: Sequence[PlannedRun], waiting: Sequence[PlannedRun], console: Console
) -> Iterator[None]:
    """Shows steps of all waiting runs against their total, and a line for each that ends."""
    over = threading.Event()
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        console=console,
        disable=not console.is_terminal,
        speed_estimate_period=600,  # runs need a while to start
    )
    before = {run: len(Record.of(run).attempts) for run in waiting}
    total = sum(run.steps or 1 for run in waiting)
    reached = sum(min(Record.of(run).step, run.steps or 1) for run in waiting)
    task = bar.add_task(f"0/{len(waiting)} runs", total=total, completed=reached)
    ended: dict[PlannedRun, Record] = {}

    def look() -> None:
        steps = 0
        for run in waiting:
            record = ended.get(run) or Record.of(run)
            of_now = len(record.attempts) > before[run]
            if run not in ended and of_now and record.state != "running":
                ended[run] = record
                done = len(runs) - len(waiting) + len(ended)
                line = f"{done}/{len(runs)} {_line(record)}"
                console.print(line, markup=False, highlight=False, soft_wrap=True)
                write_csv(runs[0].out / "runs.csv", [Record.of(run) for run in runs])
            steps += (run.steps or 1) if run in ended else min(record.step, run.steps or 1)
        bar.update(task, completed=steps, description=f"{len(ended)}/{len(waiting)} runs")

    def keep_looking() -> None:
        while not over.wait(LOOK):
            with suppress(OSError):  # the end of the sweep looks once more, and complains
                look()

    thread = threading.Thread(target=keep_looking, daemon=True)
    with bar:
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            look()


def _line(record: Record) -> str:
    text = f"{record.run.name} '{record.run.prompt}': {record.state}, {record.seconds:.0f} s"
    return text if record.done else f"{text}; {record.log_end()}"
