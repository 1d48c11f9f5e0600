"""One run of a sweep, as a process of its own: runs the host's command line and measures itself.

    python launcher.py TASK.json

A program that imports its neighbours alone, so that any Python of any backend can start it. The
host is not changed: Lightning's `Trainer.fit` gets one more callback, in this process only. While
the run goes on, `attempts.json` beside the task says how far it is and what it needs; if the sweep
that owns the run ends, the run ends too.
"""

import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from locks import owner_lives, take, take_place
from metering import Meter, observe_training

TICK = 0.5  # seconds between two looks at the owner and at oneself
PATIENCE = 20  # seconds that an earlier process of this run may take to end
GRACE = 5.0  # seconds from Ctrl-C to the end by force


class Attempt:
    """This process's go at one run, as `attempts.json` in the run's folder tells of it."""

    def __init__(self, folder: Path, meter: Meter) -> None:
        self._path, self.meter = folder / "attempts.json", meter
        self._earlier = json.loads(self._path.read_text()) if self._path.is_file() else []
        self._writing = threading.Lock()
        self.over = False

    def note(self, **values: Any) -> None:
        with self._writing:
            if not self.over:
                self._write(values)

    def finish(self, state: str, code: int) -> None:
        """The last word: nothing is noted after it."""
        with self._writing:
            self.over = True
            self._write({"state": state, "exit": code})

    def _write(self, values: dict[str, Any]) -> None:
        text = json.dumps([*self._earlier, {**self.meter.read(), **values}], indent=1)
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(text)
        os.replace(temporary, self._path)


class Companion(threading.Thread):
    """Notes how runs go, and interrupts this process when their sweep has ended."""

    def __init__(self, attempts: Sequence[Attempt], owner: Path) -> None:
        super().__init__(daemon=True)
        self._attempts, self._owner = attempts, owner
        self._over = threading.Event()
        self.interrupted = False

    def run(self) -> None:
        while not self._over.wait(TICK):
            for attempt in self._attempts:
                with suppress(OSError):  # a full disk is the run's own matter
                    attempt.note()
            if not owner_lives(self._owner):
                self.interrupted = True
                os.kill(os.getpid(), signal.SIGINT)
                if not self._over.wait(GRACE):
                    for attempt in self._attempts:
                        with suppress(OSError):
                            attempt.note(state="interrupted")
                    os.killpg(os.getpgrp(), signal.SIGKILL)
                return

    def finish(self) -> None:
        self._over.set()
        self.join()


def take_run(folder: Path) -> TextIO | None:
    """Locks a run; waits a while for an earlier process to end, None if it does not."""
    deadline = time.monotonic() + PATIENCE
    while (lock := take(folder / "lock")) is None and time.monotonic() < deadline:
        time.sleep(0.1)
    if lock is None:
        print(f"error: another process is at this run (it holds {folder / 'lock'}).")
    return lock


def choose_gpu(task: dict[str, Any]) -> TextIO | None:
    """Waits for a free place and takes the GPU that goes with it; both until the file is closed."""
    if not task["places"]:
        return None
    owner = Path(task["owner"])
    place, file = take_place(owner.parent, task["at_once"], owner)
    if task["gpus"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = task["gpus"][place % len(task["gpus"])]
    return file


def find_entry(task: dict[str, Any]) -> Callable[[list[str]], Any]:
    """The function that runs a config."""
    if task["path"] not in sys.path:
        sys.path.insert(0, task["path"])
    module, _, name = task["entry"].partition(":")
    return getattr(importlib.import_module(module), name)


def outcome_of(run: Callable[[], Any]) -> tuple[int, str]:
    """Calls `run`, whatever it does; the exit code and the state that it leaves."""
    code = 1
    try:
        run()
        return 0, "done"
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
    return code, "failed"


def carry_out(task: dict[str, Any], folder: Path) -> int:
    """Runs the task; the exit code is 0, or 2 after a user's mistake, told as the log's last line.

    Returns at once with 130 if the sweep has ended in the meantime.
    """
    owner = Path(task["owner"])
    if not owner_lives(owner):
        return 130
    lock = take_run(folder)
    if lock is None:
        return 2
    place = choose_gpu(task)
    attempt = Attempt(folder, Meter(task["at_once"]))
    companion = Companion([attempt], owner)
    attempt.note()
    companion.start()

    def run() -> None:
        entry = find_entry(task)
        observe_training(lambda: attempt.meter, lambda system: None)
        entry(task["argv"])

    code, state = outcome_of(run)
    sys.stdout.flush()
    sys.stderr.flush()
    companion.finish()
    if companion.interrupted and state == "failed":
        code, state = 130, "interrupted"
    attempt.finish(state, code)
    for file in (lock, place):
        if file is not None:
            file.close()
    return code


def write_log(folder: Path) -> None:
    """From now on what this process prints goes to the run's log."""
    with open(folder / "log.txt", "a", encoding="utf-8") as log:
        print(f"--- {datetime.now():%Y-%m-%d %H:%M:%S}", file=log, flush=True)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def main(path: Path) -> int:
    task = json.loads(path.read_text())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell ignored it
    os.environ.setdefault("OMP_NUM_THREADS", str(task["threads"]))
    write_log(path.parent)
    sys.argv = ["launch.py", *task["argv"]]  # which the host notes in the run's folder
    try:
        return carry_out(task, path.parent)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
