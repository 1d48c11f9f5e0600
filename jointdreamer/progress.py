"""Progress of everything that is no Lightning run: a bar with an ETA, or lines in a log."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")
LINES = 10  # that a log gets of the whole way


@contextmanager
def progress(
    description: str, total: float, console: Console | None = None
) -> Iterator[Callable[..., None]]:
    """Shows how much of `total` is done and how long the rest takes, on standard error.

    Yields:
        `advance(count=1, note="")`: that much more is done; the note is shown behind the numbers.

    Example:
        >>> with progress("rendering", total=8) as advance:
        ...     for view in range(8):
        ...         advance(note=f"view {view}")
    """
    console = console or Console(file=sys.stderr)
    if not console.is_terminal:
        yield log_lines(description, total, stream=console.file)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(description, total=total, note="")
        yield lambda count=1, note="": bar.update(task, advance=count, note=note)


def track(items: Sequence[T], description: str) -> Iterator[T]:
    """Yields the items one after the other, and shows how many are done."""
    with progress(description, len(items)) as advance:
        for item in items:
            yield item
            advance()


def log_lines(
    description: str, total: float, done: float = 0, stream: TextIO | None = None
) -> Callable[..., None]:
    """An `advance` as of `progress` that writes a line at each tenth of `total`.

    The time left does not count what the first call had to start up.

    Args:
        done: what was done before, where something is continued.
        stream: standard error by default.
    """
    begin, first, said = None, done, LINES * done // max(total, 1)

    def advance(count: float = 1, note: str = "") -> None:
        nonlocal begin, done, first, said
        done += count
        if begin is None:
            begin, first = time.monotonic(), done
        if (tenth := LINES * done // max(total, 1)) > said and total > 0:
            said = tenth
            text = f"{description}: {done:.0f}/{total:.0f} {note}".rstrip()
            if done > first:
                left = (time.monotonic() - begin) / (done - first) * (total - done)
                text += f", about {timedelta(seconds=round(left))} left"
            print(text, file=stream or sys.stderr, flush=True)

    return advance
