"""Runs a config with the baselines registered; the host's command line."""

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (sys.executable, str(Path(__file__).with_name("__main__.py")))  # launch.py with these
PROGRAM_TOGETHER = (*PROGRAM, "--together")


def register() -> None:
    """Chooses the host, and loads the extension and the baselines."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from jointdreamer.host.selection import ensure_host, load_extension

    ensure_host()
    load_extension()
    from benchmarks.baselines import energy, guidance  # noqa: F401


def run(argv: list[str]) -> dict[str, Any]:
    """As `jointdreamer.host.launcher.run`."""
    register()
    from jointdreamer.host.launcher import run as run_config

    return run_config(argv)
