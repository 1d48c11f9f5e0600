"""Progress of everything that is no Lightning run: a bar with an ETA, or lines in a log."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

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
        yield _log_lines(description, total, console)
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

        def advance(count: float = 1, note: str = "") -> None:
            bar.update(task, advance=count, note=note)

        yield advance


def track(items: Sequence[T], description: str) -> Iterator[T]:
    """Yields the items one after the other, and shows how many are done."""
    with progress(description, len(items)) as advance:
        for item in items:
            yield item
            advance()


def _log_lines(description: str, total: float, console: Console) -> Callable[..., None]:
    begin, done, said = time.monotonic(), 0.0, 0

    def advance(count: float = 1, note: str = "") -> None:
        nonlocal done, said
        done += count
        part = done / total if total else 1.0
        if int(part * LINES) > said:
            said = int(part * LINES)
            left = (time.monotonic() - begin) * (1 / part - 1)
            text = f"{description}: {done:.0f}/{total:.0f} {note}".rstrip()
            console.print(f"{text}, about {left:.0f} s left", markup=False, highlight=False)

    return advance
