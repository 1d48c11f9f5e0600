"""Our block in a checkout's .git/info/exclude, so that `git status` there stays clean."""

import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

BEGIN = "# jointdreamer install: begin"
END = "# jointdreamer install: end"
_BLOCK = re.compile(f"^{re.escape(BEGIN)}\n.*?^{re.escape(END)}\n", re.MULTILINE | re.DOTALL)


def exclude_file(checkout: Path) -> Path | None:
    """The file, or None if `checkout` is not the top of a repository or there is no git."""
    answers = []
    for question in ("--show-toplevel", "--git-path=info/exclude"):
        command = ["git", "-C", str(checkout), "rev-parse", *question.split("=")]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError:
            return None
        if done.returncode != 0:
            return None
        answers.append(Path(checkout, done.stdout.strip()))
    top, file = answers
    return file if top.resolve() == checkout.resolve() else None


def write_block(file: Path, paths: Iterable[str]) -> None:
    """Puts `paths` (from the top of the repository) into our block, and nothing else anywhere.

    Without paths there is no block; a file that would then be empty is removed.
    """
    old = file.read_text(encoding="utf-8") if file.is_file() else ""
    new = _BLOCK.sub("", old)
    lines = [f"/{path}" for path in paths]
    if lines:
        new += "" if new.endswith("\n") or not new else "\n"
        new += "\n".join([BEGIN, *lines, END]) + "\n"
    if new == old:
        return
    if not new:
        file.unlink()
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f"{file.name}.new-{os.getpid()}")
    try:
        beside.write_text(new, encoding="utf-8")
        os.replace(beside, file)
    finally:
        beside.unlink(missing_ok=True)
