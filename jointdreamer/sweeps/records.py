"""What became of a sweep's runs: read from their folders, as CSV and as tables."""

import csv
import io
import json
import os
import signal
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from .locks import take
from .plan import PlannedRun

FOLDER = "sweep"  # below a run's own


@dataclass(frozen=True)
class Record:
    """The state of one run, and what all attempts at it took together."""

    run: PlannedRun
    attempts: list[dict[str, Any]]
    state: str

    @classmethod
    def of(cls, run: PlannedRun) -> "Record":
        """Reads the run's folder; a run whose process is gone without a word is `killed`."""
        attempts = read_json(run.folder / FOLDER / "attempts.json") or []
        state = attempts[-1]["state"] if attempts else "waiting"
        if state == "running" and not is_locked(run):
            # its last word may have come between the two looks
            attempts = read_json(run.folder / FOLDER / "attempts.json") or []
            state = attempts[-1]["state"].replace("running", "killed")
        return cls(run, attempts, state)

    @property
    def done(self) -> bool:
        return self.state == "done"

    @property
    def failed(self) -> bool:
        return self.state in ("failed", "killed")

    @property
    def step(self) -> int:
        reached = [a["step"] for a in self.attempts if a["step"] is not None]
        return reached[-1] if reached else 0

    @property
    def seconds(self) -> float:
        """Of all attempts, from the start of Python to its end."""
        return sum(attempt["seconds"] for attempt in self.attempts)

    @property
    def steps_per_second(self) -> float | None:
        """Of training alone, without each attempt's first step and without validation."""
        seconds = sum(attempt["timed_seconds"] for attempt in self.attempts)
        return sum(a["timed_steps"] for a in self.attempts) / seconds if seconds else None

    def peak(self, key: str) -> float | None:
        values = [attempt[key] for attempt in self.attempts if attempt[key] is not None]
        return max(values, default=None)

    def log_end(self) -> str:
        """The last line that the last attempt wrote."""
        log = self.run.folder / FOLDER / "log.txt"
        if not log.is_file():
            return ""
        written = log.read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.strip() for line in reversed(written) if line.strip()), "")

    def row(self) -> dict[str, Any]:
        """A line of the CSV."""
        last = self.attempts[-1] if self.attempts else {}
        return {
            "method": self.run.method.name,
            "seed": self.run.seed,
            "prompt": self.run.prompt,
            "state": self.state,
            "exit": last.get("exit"),
            "seconds": round(self.seconds, 1),
            "steps": self.step,
            "steps_per_second": _rounded(self.steps_per_second),
            "peak_host_gib": self.peak("peak_host_gib"),
            "peak_gpu_gib": self.peak("peak_gpu_gib"),
            "device": last.get("device"),
            "at_once": last.get("at_once"),
            "together": last.get("together"),
            "attempts": len(self.attempts),
            "folder": os.path.relpath(self.run.folder, self.run.out),
            "log_end": "" if self.state in ("done", "waiting") else self.log_end(),
        }


def note_end(run: PlannedRun, code: int) -> None:
    """Notes how a process ended that could not say so itself.

    Args:
        code: its exit code, negative for a signal.
    """
    path = run.folder / FOLDER / "attempts.json"
    if code != 0 and Record.of(run).state == "killed":
        *earlier, last = read_json(path)
        end = {"state": "killed" if code < 0 else "failed", "exit": code}
        write_whole(path, json.dumps([*earlier, {**last, **end}], indent=1))


def is_locked(run: PlannedRun) -> bool:
    """Whether a process is at this run."""
    path = run.folder / FOLDER / "lock"
    if not path.is_file():
        return False
    file = take(path)
    if file is not None:
        file.close()
    return file is None


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def read_json(path: Path) -> Any:
    """A file's content, or None if there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def write_whole(path: Path, text: str) -> None:
    """Writes a file that is there as a whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_csv(path: Path, records: Sequence[Record]) -> None:
    rows = [record.row() for record in records]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def table_of_runs(records: Sequence[Record]) -> Table:
    """A row for each run; below them the end of each failed one's log."""
    columns = ("method", "seed", "prompt", "state", "time", "steps/s", "GiB", "GPU GiB")
    table = Table(*columns, show_edge=False)
    table.columns[2].min_width = 12
    for column in table.columns[4:]:
        column.justify = "right"
    for record in records:
        state = Text(_exit(record), "red") if record.failed else Text(record.state)
        row = record.row()
        measured = [row[key] for key in ("steps_per_second", "peak_host_gib", "peak_gpu_gib")]
        table.add_row(
            Text(row["method"]),
            str(row["seed"]),
            Text(row["prompt"], no_wrap=True, overflow="ellipsis"),
            state,
            f"{record.seconds:.0f} s" if record.attempts else "",
            *("" if value is None else f"{value:.3g}" for value in measured),
        )
    ends = [
        f"{_exit(record)}: {record.run.name} '{record.run.prompt}': {_shortened(record.log_end())}"
        for record in records
        if record.failed
    ]
    table.caption = Text("\n".join(ends), justify="left")
    return table


def table_of_methods(records: Sequence[Record]) -> Table:
    """Medians of each method's finished runs, and its time beside the first method's."""
    columns = ("method", "done", "median", "relative", "steps/s", "GiB", "GPU GiB")
    table = Table(*columns, show_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    first = None
    for name in dict.fromkeys(record.run.method.name for record in records):
        chosen = [record for record in records if record.run.method.name == name]
        done = [record for record in chosen if record.done]
        seconds = _median([record.seconds for record in done])
        first = first or seconds
        values = (
            (seconds, "{:.0f} s"),
            (seconds and seconds / first, "{:.2f}"),
            (_median([record.steps_per_second for record in done]), "{:.3g}"),
            (_highest([record.peak("peak_host_gib") for record in done]), "{:.3g}"),
            (_highest([record.peak("peak_gpu_gib") for record in done]), "{:.3g}"),
        )
        cells = ("" if value is None else form.format(value) for value, form in values)
        table.add_row(Text(name), f"{len(done)} of {len(chosen)}", *cells)
    return table


def _shortened(text: str, length: int = 300) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _exit(record: Record) -> str:
    code = record.attempts[-1].get("exit")
    if code is None:
        return record.state
    if code >= 0:
        return f"{record.state} ({code})"
    return f"killed ({signal.Signals(-code).name})"


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _highest(values: list[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
