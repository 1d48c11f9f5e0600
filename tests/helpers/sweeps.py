"""Sweeps of the stand-in host, from a test or, as a program, in a process of their own.

    python sweeps.py SWEEP.yaml [options of `jointdreamer sweep`]

The program imports the sweep's own modules alone: a tenth of the whole extension's time.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import yaml

STAND_IN = Path(__file__).parent / "stand_in_host" / "stand_in.py"
EXTENSION = Path(__file__).resolve().parents[2] / "custom" / "threestudio-jointdreamer"
PROMPTS = ["a red bear", "a blue cat"]


def stand_in_run():
    """The stand-in's `run`, of a module that a launcher finds again."""
    if "stand_in" not in sys.modules:
        spec = importlib.util.spec_from_file_location("stand_in", STAND_IN)
        sys.modules["stand_in"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["stand_in"])
    return sys.modules["stand_in"].run


def write_sweep(folder: Path, **changes) -> Path:
    """A sweep of two prompts, one method `plain` and four steps a run."""
    (folder / "config.yaml").write_text("name: stand-in\ntrainer:\n  max_steps: 4\n")
    content = {
        "prompts": PROMPTS,
        "steps": 4,
        "methods": {"plain": {"config": str(folder / "config.yaml")}},
        "out": str(folder / "out"),
        **changes,
    }
    for method in content["methods"].values():
        method.setdefault("config", str(folder / "config.yaml"))
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def start(sweep: Path, *more: str) -> subprocess.Popen:
    """The program, leading a process group of its own as a shell's jobs do."""
    return subprocess.Popen(
        [sys.executable, __file__, str(sweep), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        start_new_session=True,
    )


def sessions(folder: Path) -> list[dict]:
    """What the processes of one run or of all runs below a folder left, in order of their begin."""
    lines = [line for f in folder.rglob("sessions.jsonl") for line in f.read_text().splitlines()]
    return sorted(map(json.loads, lines), key=lambda session: session["begin"])


def main(argv: list[str]) -> int:
    package = types.ModuleType("threestudio_jointdreamer")
    package.__path__ = [str(EXTENSION)]
    sys.modules[package.__name__] = package
    from jointdreamer.sweeps import command

    parser = argparse.ArgumentParser()
    command.add_arguments(parser.add_subparsers())
    args, overrides = parser.parse_known_args(["sweep", *argv])
    args.overrides, args.run_config = overrides, stand_in_run()
    return args.handler(args)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
