"""One run of a sweep, as a process of its own: runs the host's command line and measures itself.

    python launcher.py TASK.json

A program that imports nothing of this package, so that any Python of any backend can start it. The
host is not changed: Lightning's `Trainer.fit` gets one more callback, in this process only. While
the run goes on, `attempts.json` beside the task says how far it is and what it needs; if the sweep
that owns the run ends, the run ends too.
"""

import fcntl
import importlib
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

TICK = 0.5  # seconds between two looks at the owner and at oneself
PATIENCE = 20  # seconds that an earlier process of this run may take to end
GRACE = 5.0  # seconds from Ctrl-C to the end by force
GIB = 2**30


class Meter:
    """What an attempt at a run has reached and used so far."""

    def __init__(self, at_once: int) -> None:
        self._begin = time.perf_counter()
        self._first_end: float | None = None
        self._pause_begin = 0.0
        self._paused = 0.0
        self._torch: Any = None
        self.values: dict[str, Any] = {
            "state": "running",
            "started": datetime.now().isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "device": "cpu",
            "at_once": at_once,
            "seconds": 0.0,
            "step": None,  # of the whole run
            "timed_steps": 0,  # all but this attempt's first, which pays for the start
            "timed_seconds": 0.0,  # without validation
            "peak_host_gib": 0.0,
            "peak_gpu_gib": None,
        }

    def observe_training(self) -> None:
        """From now on every `Trainer.fit` of this process is timed."""
        import pytorch_lightning as pl
        import torch

        self._torch, meter, fit = torch, self, pl.Trainer.fit

        class Steps(pl.Callback):
            def on_train_start(self, trainer, pl_module) -> None:
                meter.values["step"] = trainer.global_step

            def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
                meter.step(trainer.global_step)

            def on_validation_start(self, trainer, pl_module) -> None:
                meter.pause()

            def on_validation_end(self, trainer, pl_module) -> None:
                meter.go_on()

        def observed(trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
            trainer.callbacks.append(Steps())
            fit(trainer, *args, **kwargs)

        pl.Trainer.fit = observed

    def step(self, step: int) -> None:
        now = time.perf_counter()
        if self._first_end is None:
            self._first_end, self._paused = now, 0.0
        elif step > self.values["step"]:  # and not a part of an accumulated gradient
            self.values["timed_steps"] += step - self.values["step"]
            self.values["timed_seconds"] = now - self._first_end - self._paused
        self.values["step"] = step

    def pause(self) -> None:
        self._pause_begin = time.perf_counter()

    def go_on(self) -> None:
        self._paused += time.perf_counter() - self._pause_begin

    def read(self) -> dict[str, Any]:
        self.values["seconds"] = round(time.perf_counter() - self._begin, 2)
        self.values["peak_host_gib"] = round(peak_host_bytes() / GIB, 3)
        if self._torch is not None and self._torch.cuda.is_initialized():
            cuda = self._torch.cuda
            peaks = [cuda.max_memory_allocated(index) for index in range(cuda.device_count())]
            self.values["peak_gpu_gib"] = round(max(peaks) / GIB, 3)
            self.values["device"] = cuda.get_device_name()
        return self.values


def peak_host_bytes() -> int:
    """Of this process, without those it started.

    Linux's getrusage counts what the parent had when it started this process; /proc does not.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Companion(threading.Thread):
    """Notes how the run goes, and interrupts it when its sweep has ended."""

    def __init__(self, attempts: Path, meter: Meter, owner: Path) -> None:
        super().__init__(daemon=True)
        self._path, self._meter, self._owner = attempts, meter, owner
        self._earlier = json.loads(attempts.read_text()) if attempts.is_file() else []
        self._over = threading.Event()
        self.interrupted = False

    def run(self) -> None:
        while not self._over.wait(TICK):
            with suppress(OSError):  # a full disk is the run's own matter
                self.note()
            if not owner_lives(self._owner):
                self.interrupted = True
                os.kill(os.getpid(), signal.SIGINT)
                if not self._over.wait(GRACE):
                    with suppress(OSError):
                        self.note(state="interrupted")
                    os.killpg(os.getpgrp(), signal.SIGKILL)

    def finish(self, state: str, code: int) -> None:
        self._over.set()
        self.join()
        self.note(state=state, exit=code)

    def note(self, **values: Any) -> None:
        text = json.dumps([*self._earlier, {**self._meter.read(), **values}], indent=1)
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(text)
        os.replace(temporary, self._path)


def owner_lives(path: Path) -> bool:
    """Whether the sweep that wrote `path` still wants its runs, and if it is here, still runs."""
    try:
        owner = json.loads(path.read_text())
    except OSError:
        return False
    if owner["host"] != socket.gethostname():
        return True
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's process, but there
    return True


def take(path: Path) -> TextIO | None:
    """Locks a file as long as it is open; None if somebody else has it."""
    file = open(path, "a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def take_place(folder: Path, places: int, owner: Path) -> tuple[int, TextIO]:
    """The number of a free place out of as many as runs go on at a time."""
    while owner_lives(owner):
        for place in range(places):
            if (file := take(folder / f"place-{place}")) is not None:
                return place, file
        time.sleep(0.1)
    raise KeyboardInterrupt


def carry_out(task: dict[str, Any], folder: Path) -> int:
    """Runs the task; the exit code is 0, or 2 after a user's mistake, told as the log's last line.

    Returns at once with 130 if the sweep has ended in the meantime.
    """
    owner = Path(task["owner"])
    if not owner_lives(owner):
        return 130
    deadline = time.monotonic() + PATIENCE
    lock = take(folder / "lock")  # held until this process ends
    while lock is None and time.monotonic() < deadline:
        time.sleep(0.1)
        lock = take(folder / "lock")
    if lock is None:
        print(f"error: another process is at this run (it holds {folder / 'lock'}).")
        return 2
    places = take_place(owner.parent, task["at_once"], owner) if task["places"] else None
    if places is not None and task["gpus"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = task["gpus"][places[0] % len(task["gpus"])]
    meter = Meter(task["at_once"])
    companion = Companion(folder / "attempts.json", meter, owner)
    companion.note()
    companion.start()
    code, state = 1, "failed"
    try:
        sys.path.insert(0, task["path"])
        meter.observe_training()
        module, _, name = task["entry"].partition(":")
        getattr(importlib.import_module(module), name)(task["argv"])
        code, state = 0, "done"
    except (ValueError, OSError) as error:
        traceback.print_exc()
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        code = 2
    except SystemExit as end:  # which is what Lightning makes of an interruption
        code = end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    if companion.interrupted and state == "failed":
        code, state = 130, "interrupted"
    companion.finish(state, code)
    return code


def main(path: Path) -> int:
    task = json.loads(path.read_text())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell ignored it
    os.environ.setdefault("OMP_NUM_THREADS", str(task["threads"]))
    with open(path.parent / "log.txt", "a", encoding="utf-8") as log:
        print(f"--- {datetime.now():%Y-%m-%d %H:%M:%S}", file=log, flush=True)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.argv = ["launch.py", *task["argv"]]  # which the host notes in the run's folder
    try:
        return carry_out(task, path.parent)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
