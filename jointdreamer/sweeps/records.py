"""What became of a sweep's runs: read from their folders, as CSV and as tables."""

import fcntl
import json
import os
import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rich.table import Table
from rich.text import Text

from .plan import PlannedRun

FOLDER = "sweep"  # below a run's own: settings.json, state.json, log.txt, lock
PATIENCE = 1.0  # seconds; others take a lock for a moment to see whether it is free
MEASURED = ("steps_per_second", "peak_host_gib", "peak_gpu_gib")


@dataclass(frozen=True)
class Record:
    """One run as its folder tells of it.

    Attributes:
        state: waiting, running, done, failed, interrupted, or killed.
        row: its line of `runs.csv`; seconds are of all attempts, from the start of Python to its
            end; what is measured is from the run's own `metrics.json`.
    """

    run: PlannedRun
    state: str
    row: dict[str, Any]

    @classmethod
    def of(cls, run: PlannedRun) -> "Record":
        goes_on = is_locked(run)  # asked first, as its last word may come between the two looks
        noted = read_json(run.folder / FOLDER / "state.json")
        measured = read_json(run.folder / "metrics.json")
        state = noted.get("state") or measured.get("state", "waiting")
        if state == "running" and not goes_on:
            state = "killed"
        if state != "running" and measured.get("state") == "done":
            state = "done"
        row = {
            "method": run.method.name,
            "seed": run.seed,
            "prompt": run.prompt,
            "state": state,
            "exit": noted.get("exit"),
            "seconds": round(noted.get("seconds", 0.0), 1),
            "steps": measured.get("step") or 0,
            **{key: measured.get(key) for key in (*MEASURED, "device")},
            "at_once": noted.get("at_once"),
            "together": noted.get("together"),
            "attempts": noted.get("attempts", 0),
            "folder": os.path.relpath(run.folder, run.out),
            "log_end": "" if state in ("done", "waiting", "running") else _log_end(run),
        }
        return cls(run, state, row)

    @property
    def done(self) -> bool:
        return self.state == "done"

    @property
    def failed(self) -> bool:
        return self.state in ("failed", "killed")

    @property
    def outcome(self) -> str:
        """The state, of a failed run with its exit code or signal."""
        code = self.row["exit"]
        if not self.failed or code is None:
            return self.state
        return f"{self.state} ({code if code >= 0 else signal.Signals(-code).name})"

    @property
    def line(self) -> str:
        text = f"{self.run.name} '{self.run.prompt}': {self.outcome}, {self.row['seconds']:.0f} s"
        return text if self.done else f"{text}; {self.row['log_end'][:300]}"


def _log_end(run: PlannedRun) -> str:
    """The last line that a run wrote."""
    log = run.folder / FOLDER / "log.txt"
    written = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return (written.strip().splitlines() or [""])[-1].strip()


@contextmanager
def take_lock(run: PlannedRun) -> Iterator[TextIO | None]:
    """Makes a run this process's own, and its children's that get the file; None: another's."""
    path = run.folder / FOLDER / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        deadline = time.monotonic() + PATIENCE
        while not (taken := _lock(file)) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield file if taken else None


def is_locked(run: PlannedRun) -> bool:
    """Whether a process is at this run."""
    path = run.folder / FOLDER / "lock"
    if not path.is_file():
        return False
    with open(path, "a") as file:
        return not _lock(file)


def _lock(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read_json(path: Path) -> dict[str, Any]:
    """A file's content; empty if there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def table_of_runs(records: Sequence[Record]) -> Table:
    """A row for each run; below them the end of each failed one's log."""
    table = _table("method", "seed", "prompt", "state", "time", "steps/s", "GiB", "GPU GiB", left=4)
    table.columns[2].min_width = 12
    for record in records:
        row = record.row
        table.add_row(
            Text(row["method"]),
            str(row["seed"]),
            Text(row["prompt"], no_wrap=True, overflow="ellipsis"),
            Text(record.outcome, "red" if record.failed else ""),
            f"{row['seconds']:.0f} s" if row["attempts"] else "",
            *("" if row[key] is None else f"{row[key]:.3g}" for key in MEASURED),
        )
    ends = [record.line for record in records if record.failed]
    table.caption = Text("\n".join(ends), justify="left")
    return table


def table_of_methods(records: Sequence[Record]) -> Table:
    """Medians of each method's finished runs, most memory, and its time beside the first one's."""
    table = _table("method", "done", "median", "relative", "steps/s", "GiB", "GPU GiB", left=1)
    first = None
    for name in dict.fromkeys(record.run.method.name for record in records):
        chosen = [record for record in records if record.run.method.name == name]
        rows = [record.row for record in chosen if record.done]
        known = {
            key: [row[key] for row in rows if row[key] is not None] or [0.0]
            for key in ("seconds", *MEASURED)
        }
        seconds, speed = (statistics.median(known[key]) for key in ("seconds", MEASURED[0]))
        first = first or seconds
        peaks = [max(known[key]) for key in MEASURED[1:]]
        values = (seconds / first if first else 0.0, speed, *peaks)
        cells = (f"{value:.3g}" if value else "" for value in values)
        median = f"{seconds:.0f} s" if seconds else ""
        table.add_row(Text(name), f"{len(rows)} of {len(chosen)}", median, *cells)
    return table


def _table(*columns: str, left: int) -> Table:
    """Columns of text to the left, then of numbers to the right."""
    table = Table(*columns, show_edge=False)
    for column in table.columns[left:]:
        column.justify = "right"
    return table
