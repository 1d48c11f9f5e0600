"""Carries a sweep out: runs as processes, several at a time through joblib, until Ctrl-C."""

import json
import math
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import joblib
from rich.console import Console
from threestudio_jointdreamer.files import replacing

from ..csv_table import write_csv
from ..host.ownership import locked
from ..host.threads import threads_for_each
from ..progress import progress
from .plan import PlannedRun, groups_of
from .records import FOLDER, Record, is_locked, read_json, take_lock

LAUNCHER = (sys.executable, "-m", "jointdreamer.host.launcher")
TOGETHER = (sys.executable, "-m", "jointdreamer.sweeps.together")
LOOK = 0.5  # seconds between two looks at the runs
GRACE = 10.0  # seconds from Ctrl-C to a run's end by force


@dataclass(frozen=True)
class Workers:
    """How runs are started.

    Attributes:
        program: what carries out a command line of launch.py.
        jobs: processes at a time.
        backend: joblib's; "ray" is a cluster, whose machines see `out` and Python at one path.
        gpus: of this machine, as CUDA_VISIBLE_DEVICES names them; used in turn.
        together: runs of one method that share a process and its calls of the guidance, at most.
        program_together: what carries out the task of such a process.
        max_seconds: after which the runs are ended as by Ctrl-C.
    """

    program: Sequence[str] = LAUNCHER
    jobs: int = 1
    backend: str = "threading"
    gpus: Sequence[str] = ()
    together: int = 1
    program_together: Sequence[str] = TOGETHER
    max_seconds: float = math.inf


def visible_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES has to name them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def check_settings(runs: Sequence[PlannedRun]) -> None:
    """Refuses folders that hold runs of these names which were made with other settings.

    Raises:
        ValueError: names the first of them and the settings that differ.
    """
    differing = {}
    for run in runs:
        found = read_json(run.folder / FOLDER / "settings.json")
        keys = [key for key, value in run.settings().items() if found.get(key) != value]
        if keys and (found or any(run.folder.glob("ckpts/*.ckpt"))):
            differing[run.folder] = ", ".join(keys)
    for folder, keys in differing.items():
        raise ValueError(
            f"{len(differing)} of the runs are there with other settings, the first is {folder} "
            f"(differing: {keys}). Add --fresh to replace them, or --out for another folder."
        )


def remove_runs(runs: Sequence[PlannedRun]) -> None:
    """Removes the folders of runs that no process is at."""
    for run in runs:
        if is_locked(run):
            raise ValueError(f"--fresh: a process is at {run.folder}; end that sweep first.")
    for run in runs:
        if run.folder.exists():
            shutil.rmtree(run.folder)


def run_sweep(runs: Sequence[PlannedRun], workers: Workers, console: Console) -> bool:
    """Runs what is not done yet and writes `runs.csv` in the sweep's folder, again and again.

    Returns:
        Whether it came to its end; False after Ctrl-C or `max_seconds`. What became of each run:
        `Record.of`.

    Raises:
        ValueError: the folder holds runs with other settings, or another sweep is at it; or the
            backend is not installed.
        OSError: the sweep's folder cannot be written.
    """
    with locked(runs[0].out):
        return _run_all(runs, workers, console)


def _run_all(runs: Sequence[PlannedRun], workers: Workers, console: Console) -> bool:
    check_settings(runs)
    watch = _Watch(runs, console)
    options = _start_ray(workers.jobs) if workers.backend == "ray" and watch.going else {}
    wanted = runs[0].out / f".sweep-{socket.gethostname()}-{os.getpid()}"
    wanted.touch()  # all workers see it; without it runs end
    deadline = time.monotonic() + workers.max_seconds
    try:
        with _interruptible(), ThreadPoolExecutor(1) as executor, watch.bar as advance:
            working = executor.submit(_work, watch.going.copy(), workers, options, wanted)
            try:
                while not wait([working], LOOK).done:
                    watch.look(advance)
                    if time.monotonic() > deadline:
                        raise KeyboardInterrupt
            except (KeyboardInterrupt, OSError) as error:  # the latter where the disk is full
                wanted.unlink()
                wait([working])
                if isinstance(error, OSError):
                    raise
            watch.look(advance)
        interrupted = not wanted.exists()
    finally:
        wanted.unlink(missing_ok=True)
    watch.write()
    if interrupted:
        console.print("Interrupted. The same command goes on.")
    else:
        working.result()  # or what it raised
    return not interrupted


class _Watch:
    """Shows steps of all runs that are left against their total, and a line for each that ends."""

    def __init__(self, runs: Sequence[PlannedRun], console: Console) -> None:
        self._records = {run: Record.of(run) for run in runs}
        self._before = dict(self._records)
        self._console, self._shown = console, 0
        self.going = [run for run, record in self._records.items() if not record.done]
        self._steps = {run: run.steps or 1 for run in self.going}
        self.bar = progress(f"{len(self.going)} runs", sum(self._steps.values()), console)

    def look(self, advance: Any) -> None:
        for run in self.going.copy():
            self._records[run] = record = Record.of(run)
            again = record.row["attempts"] > self._before[run].row["attempts"]
            if again and record.state != "running":
                self.going.remove(run)
                count = len(self._records)
                text = f"{count - len(self.going)}/{count} {record.line}"
                self._console.print(text, markup=False, highlight=False, soft_wrap=True)
                self.write()
        reached = sum(min(self._records[run].row["steps"], n) for run, n in self._steps.items())
        advance(reached - self._shown, note="steps")
        self._shown = reached

    def write(self) -> None:
        rows = [record.row for record in self._records.values()]
        write_csv(next(iter(self._records)).out / "runs.csv", rows)


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and a closed terminal, unless for nohup, are as Ctrl-C, which always works."""
    names = [signal.SIGINT, signal.SIGTERM]  # a shell has its background jobs ignore SIGINT
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        names.append(signal.SIGHUP)
    before = [signal.signal(name, signal.default_int_handler) for name in names]
    try:
        yield
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)


def _work(
    runs: Sequence[PlannedRun], workers: Workers, options: dict[str, Any], wanted: Path
) -> None:
    """Carries the runs out, `jobs` processes at a time."""
    if not runs:
        return
    slots: queue.Queue = queue.Queue()  # the GPUs of the runs that go on at a time
    for job in range(workers.jobs):
        slots.put(workers.gpus[job % len(workers.gpus)] if workers.gpus else None)
    shared = slots if workers.backend != "ray" else None  # which shares its machines' GPUs itself
    groups = groups_of(runs, workers.together, workers.jobs)
    calls = [joblib.delayed(carry_out)(group, workers, wanted, shared) for group in groups]
    with joblib.parallel_config(workers.backend, n_jobs=workers.jobs, **options):
        joblib.Parallel(batch_size=1, pre_dispatch="all")(calls)


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


def carry_out(
    runs: Sequence[PlannedRun], workers: Workers, wanted: Path, slots: queue.Queue | None
) -> None:
    """Runs one run, or several together, as a process; their folders tell how they ended.

    Those that are another sweep's are left out.
    """
    with ExitStack() as stack:
        locks = {run: stack.enter_context(take_lock(run)) for run in runs}
        runs = [run for run in runs if locks[run] is not None and not Record.of(run).done]
        if not runs or not wanted.exists():
            return
        gpu = None if slots is None else slots.get()
        begin = time.monotonic()
        states = {run: _begin(run, workers.jobs, len(runs)) for run in runs}
        try:
            process = _start(runs, workers, gpu, [locks[run].fileno() for run in runs])
            code = _exit_code(process, wanted)
        finally:
            if slots is not None:
                slots.put(gpu)
        for run, state in states.items():
            path = run.folder / FOLDER / "exit"  # of a run among several
            untold = 1 if len(runs) > 1 else 0  # how it ended: it has failed
            own = int(path.read_text()) if path.is_file() else code or untold
            end = "killed" if own < 0 else "failed" if own else "done"
            state |= {"state": end if wanted.exists() or not own else "interrupted", "exit": own}
            state["seconds"] += time.monotonic() - begin
            note(run, "state", state)


def _begin(run: PlannedRun, at_once: int, together: int) -> dict[str, Any]:
    """Notes that another attempt begins; returns what was noted."""
    state = {"seconds": 0.0, "attempts": 0, **read_json(run.folder / FOLDER / "state.json")}
    state |= {"state": "running", "exit": None, "at_once": at_once, "together": together}
    state["attempts"] += 1
    note(run, "settings", run.settings())
    note(run, "state", state)
    (run.folder / FOLDER / "exit").unlink(missing_ok=True)
    return state


def _start(
    runs: Sequence[PlannedRun], workers: Workers, gpu: str | None, locks: Sequence[int]
) -> subprocess.Popen:
    """The process; a session of its own keeps a terminal's Ctrl-C from it.

    It has the locks as well: if the sweep is killed, no other starts what still goes on.
    """
    threads = 1 if workers.backend == "ray" else threads_for_each(workers.jobs)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    command = [*workers.program, *runs[0].arguments()]
    logs = [run.folder / FOLDER / "log.txt" for run in runs]
    if len(runs) > 1:
        tasks = [
            {"arguments": run.arguments(), "log": str(log)}
            for run, log in zip(runs, logs, strict=True)
        ]
        note(runs[0], "task", tasks)
        command = [*workers.program_together, str(runs[0].folder / FOLDER / "task.json")]
    for path in logs:
        with open(path, "a", encoding="utf-8") as log:
            print(f"--- {datetime.now():%Y-%m-%d %H:%M:%S}", file=log)
    with open(logs[0], "a", encoding="utf-8") as log:
        signals = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray blocks it
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=locks,
        )
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        return process


def _exit_code(process: subprocess.Popen, wanted: Path) -> int:
    """Of a process that is interrupted when nobody wants it any more; negative for a signal."""
    while wanted.exists():
        with suppress(subprocess.TimeoutExpired):
            return process.wait(LOOK)
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        return process.wait(GRACE)
    os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def note(run: PlannedRun, name: str, content: Any) -> None:
    """Writes a JSON file into the sweep's part of a run's folder."""
    with replacing(run.folder / FOLDER / f"{name}.json") as new:
        new.write_text(json.dumps(content, indent=1), encoding="utf-8")
