"""Who is at what: whether a sweep goes on, and files that one process holds at a time.

Imports nothing of this package, as all that a launcher imports.
"""

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import TextIO


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
