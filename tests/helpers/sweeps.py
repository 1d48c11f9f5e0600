"""Sweeps of the stand-in host, from a test or, as a program, in a process of their own.

    python sweeps.py SWEEP.yaml [options of `jointdreamer sweep`]

The program imports the sweep's own modules alone: a tenth of the whole extension's time.
"""

import argparse
import json
import os
import subprocess
import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path

import yaml

STAND_IN = (sys.executable, str(Path(__file__).with_name("stand_in_host.py")))
ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ["a red bear", "a blue cat"]


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
    spec = ModuleSpec("threestudio_jointdreamer", None, is_package=True)
    spec.submodule_search_locations.append(str(ROOT / "custom" / "threestudio-jointdreamer"))
    sys.modules[spec.name] = module_from_spec(spec)
    from jointdreamer.sweeps import command, run

    run.LAUNCHER = STAND_IN
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args, overrides = parser.parse_known_args(argv)
    args.overrides = overrides
    try:
        return args.run(args)
    except ValueError as error:
        print(f"error: {error}")
        return 2


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main(sys.argv[1:]))
