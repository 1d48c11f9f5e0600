"""Several runs of one method of a sweep in one process, which share each call of the guidance.

    python joint_launcher.py TASK.json TASK.json...

Each is what `launcher.py` would run, in a thread of its own; they take turns (`turns.py`) and meet
at the guidance (`company.py`). One that fails leaves, the others go on.
"""

import importlib
import io
import json
import os
import signal
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import launcher
from locks import owner_lives
from metering import Meter, observe_training
from turns import Member, Turns

EXTENSION = "threestudio_jointdreamer"


class ByThread(io.TextIOBase):
    """Text that goes to a file of the thread that writes it, or else to `rest`."""

    def __init__(self, rest: TextIO) -> None:
        self._rest = rest
        self.files: dict[int, TextIO] = {}

    def write(self, text: str) -> int:
        return self._file().write(text)

    def flush(self) -> None:
        self._file().flush()

    def fileno(self) -> int:
        return self._rest.fileno()

    def _file(self) -> TextIO:
        return self.files.get(threading.get_ident(), self._rest)


class Company:
    """All runs of this process."""

    def __init__(self) -> None:
        self._table: Any = None
        self._turns = Turns(lambda waiting: self._table.answer(waiting))
        self._own: dict[int, tuple[Meter, Member]] = {}  # of each thread
        self._out, self._err = ByThread(sys.stdout), ByThread(sys.stderr)
        self.codes: list[int] = []

    def add(self, task: dict[str, Any], folder: Path, attempt: launcher.Attempt) -> None:
        def work(member: Member) -> None:
            with open(folder / "log.txt", "a", encoding="utf-8", buffering=1) as log:
                me = threading.get_ident()
                self._own[me] = attempt.meter, member
                self._out.files[me] = self._err.files[me] = log
                sys.argv = ["launch.py", *task["argv"]]  # which the host notes when it starts
                code, state = launcher.outcome_of(lambda: launcher.find_entry(task)(task["argv"]))
                if self._turns.cancelled and state == "failed":
                    code, state = 130, "interrupted"
                attempt.finish(state, code)
                self.codes.append(code)
                del self._out.files[me], self._err.files[me]

        self._turns.add(work)

    def run(self) -> None:
        """Until all are over; after Ctrl-C each as if it had been interrupted itself."""
        sys.stdout, sys.stderr = self._out, self._err
        observe_training(lambda: self._mine()[0], self._attend)
        try:
            self._turns.run()
        except KeyboardInterrupt:
            self.codes.append(130)

    def _mine(self) -> tuple[Meter, Member]:
        return self._own[threading.get_ident()]

    def _attend(self, system: Any) -> None:
        """Gives the run's system a seat at the common table in place of its guidance."""
        company = importlib.import_module(f"{EXTENSION}.evaluation.sweeps.company")
        self._table = self._table or company.Table()
        system.guidance = company.Seat(self._mine()[1], getattr(system, "guidance", None))


def main(paths: list[Path]) -> int:
    tasks = [json.loads(path.read_text()) for path in paths]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("OMP_NUM_THREADS", str(tasks[0]["threads"]))
    launcher.write_log(paths[0].parent)
    owner = Path(tasks[0]["owner"])
    if not owner_lives(owner):
        return 130
    with ExitStack() as held:
        try:
            place = launcher.choose_gpu(tasks[0])
        except KeyboardInterrupt:
            return 130
        if place is not None:
            held.enter_context(place)
        launcher.find_entry(tasks[0])
        company, attempts = Company(), []
        for task, path in zip(tasks, paths, strict=True):
            lock = launcher.take_run(path.parent)
            if lock is None:
                company.codes.append(2)
                continue
            held.enter_context(lock)
            meter = Meter(task["at_once"])
            meter.values["together"] = len(tasks)
            attempts.append(launcher.Attempt(path.parent, meter))
            attempts[-1].note()
            company.add(task, path.parent, attempts[-1])
        companion = launcher.Companion(attempts, owner)
        companion.start()
        company.run()
        companion.finish()
        return max(company.codes, default=0)


if __name__ == "__main__":
    sys.exit(main([Path(path) for path in sys.argv[1:]]))
