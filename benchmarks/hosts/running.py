"""Runs every host in a process of its own and compares what they dumped."""

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.hosts.compare import Row, compare, read
from benchmarks.hosts.session import ROOT

ENVIRONMENT = "THREESTUDIO_ROOT"
CORES = 4  # that a process of a host is worth


def run_all(devices: list[str], folder: Path | None = None) -> list[Row]:
    """Threestudio against the standalone host with the same compiled packages, and without.

    Hosts run at the same time where there are CORES for each.

    Args:
        folder: where the dumps stay; by default they do not.

    Raises:
        ValueError: THREESTUDIO_ROOT is not set.
        RuntimeError: a process failed; its log's end is in the message.
    """
    root = os.environ.get(ENVIRONMENT)
    if not root:
        raise ValueError(f"{ENVIRONMENT} is not set: it names a checkout of threestudio 0.2.3.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = folder or Path(temporary)
        pairs = []
        with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // CORES)) as pool:
            for device in devices:
                # on a CPU there is nothing compiled that a host could use
                kinds = ("compiled", "pytorch") if device == "cuda" else ("pytorch",)
                file = folder / f"threestudio-{device}.pt"
                theirs = pool.submit(run_dump, file, device, kinds[0], root)
                for packages in kinds:
                    file = folder / f"standalone-{packages}-{device}.pt"
                    pairs.append((theirs, pool.submit(run_dump, file, device, packages, None)))
        rows = []
        for theirs, ours in pairs:
            rows += compare(read(theirs.result()), read(ours.result()))
        return rows


def run_dump(path: Path, device: str, packages: str, root: str | None) -> Path:
    """`python -m benchmarks.hosts dump` with THREESTUDIO_ROOT=root, or without it."""
    environment = {key: value for key, value in os.environ.items() if key != ENVIRONMENT}
    if root:
        environment[ENVIRONMENT] = root
    command = [sys.executable, "-m", "benchmarks.hosts", "dump", "--out", str(path.absolute())]
    command += ["--device", device, "--packages", packages]
    print(f"{'threestudio' if root else 'standalone host'}, {device}, {packages}", flush=True)
    run_process(command, environment, " ".join(command))
    return path


def run_process(command: list[str], environment: dict[str, str], name: str) -> None:
    """Runs `command` in the repository's root.

    Raises:
        RuntimeError: it failed; `name` and its log's end are in the message.
    """
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode:
        raise RuntimeError(f"{name} failed; its log ends:\n{done.stdout[-6000:]}")
