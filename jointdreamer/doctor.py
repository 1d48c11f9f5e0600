"""`jointdreamer doctor`: what is installed, which weights are here, and whether a config fits."""

import argparse
import json
import os
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Say what is installed and, with a config, which of its weights are here and if it fits."
    )
    parser.epilog = (
        "Further KEY=VALUE arguments change the config. The exit status is 0 if all is "
        "well, 1 if something that the config needs is not here, 2 after a mistake."
    )
    parser.add_argument("config", type=Path, nargs="?", help="a YAML config")
    parser.add_argument(
        "--threestudio",
        type=Path,
        metavar="PATH",
        help="a checkout of threestudio; default: THREESTUDIO_ROOT, or the folder this starts in",
    )
    parser.add_argument("--json", action="store_true", help="for scripts")
    parser.set_defaults(run=doctor, takes_overrides=True)


@dataclass
class Report:
    """What was found; sizes in GiB.

    Attributes:
        weights: state, name, part and size of everything that the config loads.
        memory: what the config needs on the GPU, by what needs it, and in `total`.
        threestudio: where its checkout is and, for each package that it imports, the state.
        problems: what is not here, each with its remedy; notes: what is good to know.
    """

    versions: dict[str, str]
    compiled: dict[str, str]
    gpus: list[dict[str, Any]]
    weights: list[dict[str, Any]] = field(default_factory=list)
    memory: dict[str, float] = field(default_factory=dict)
    threestudio: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def doctor(args: argparse.Namespace) -> int:
    """Prints the report.

    Returns:
        0, or 1 if there are problems.

    Raises:
        FileNotFoundError, ValueError: there is no such config, or it is none.
    """
    from . import machine
    from .threestudio_check import find_checkout

    checkout = find_checkout(args.threestudio)
    gpus = [
        {"name": g.name, "total": g.total / GIB, "free": g.free / GIB, "capability": g.capability}
        for g in machine.gpus()
    ]
    report = Report(machine.versions(), machine.compiled_parts(), gpus)
    if not gpus:
        report.notes.append("PyTorch sees no GPU: runs take place on the CPU, in fp32.")
    if checkout is not None:
        _examine_threestudio(checkout, args.threestudio is None, report)
    if args.config is not None:
        _examine(args.config, args.overrides, report)
    print(json.dumps(asdict(report), indent=2) if args.json else _text(report))
    return 1 if report.problems else 0


def _examine_threestudio(checkout: Path, unnamed: bool, report: Report) -> None:
    from .threestudio_check import HERE, examine
    from .threestudio_needs import NOT_NEEDED

    own_launcher = unnamed and "THREESTUDIO_ROOT" in os.environ
    findings, why_not = examine(checkout, own_launcher=own_launcher)
    packages = [
        {"package": f.need.package, "version": f.version, "state": f.state, "line": f.line()}
        for f in findings
    ]
    report.threestudio = {"checkout": str(checkout), "packages": packages}
    report.problems += [f.line() for f in findings if f.state != HERE]
    if why_not and all(f.state == HERE for f in findings):
        report.problems.append(f"threestudio at {checkout} cannot be imported: {why_not}")
    report.notes += NOT_NEEDED


def _examine(path: Path, overrides: list[str], report: Report) -> None:
    from threestudio_jointdreamer.weights.inventory import (
        MISSING,
        TO_DOWNLOAD,
        bytes_left,
        inventory_of,
    )

    from .download import problems
    from .experiment import read_experiment
    from .memory import estimate

    cfg = read_experiment(path, overrides)
    unknown = list(_unknown_types(cfg))
    report.problems += unknown
    if unknown:
        return
    items = inventory_of(cfg)
    for item in items:
        size = item.size / GIB if item.state != MISSING else None
        report.weights.append(
            {
                "state": item.state,
                "name": item.needed.name,
                "part": item.needed.part,
                "gib": size,
                "gib_to_download": item.left / GIB,
            }
        )
    report.problems += problems(items)
    if any(item.state == TO_DOWNLOAD for item in items):
        size = f"{bytes_left(items) / GIB:.2f} GiB"
        report.problems.append(
            f"{size} of weights are not here yet: run jointdreamer download "
            f"{shlex.join([str(path), *overrides])}"
        )
    if "data" in cfg:
        _compare_memory(estimate(cfg, items), report)


def _compare_memory(needed: dict[str, float], report: Report) -> None:
    total = sum(needed.values())
    report.memory = {**needed, "total": total}
    for gpu in report.gpus[:1]:
        if total > gpu["total"]:
            report.problems.append(
                f"This config needs about {total:.0f} GiB, but {gpu['name']} has "
                f"{gpu['total']:.0f}: lower data.batch_size, data.width and data.height, or "
                "renderer.num_samples_per_ray, or set guidance.compile=true."
            )
        elif total > gpu["free"]:
            report.notes.append(
                f"Of {gpu['name']}'s {gpu['total']:.0f} GiB only {gpu['free']:.0f} are free now; "
                f"this config needs about {total:.0f}."
            )


def _unknown_types(cfg: DictConfig) -> list[str]:
    """A problem for each registered name in the config that this host does not know."""
    import threestudio
    from threestudio_jointdreamer.weights.requirements import Block

    problems = []
    for prefix, block in (("", cfg), ("system.", cfg.get("system") or {})):
        for key, name in Block(None, block).items():
            part = key.removesuffix("_type")
            if part == key or part not in block or not name:
                continue
            try:
                threestudio.find(name)
            except (KeyError, ValueError):
                problems.append(
                    f"{prefix}{key}={name!r} is not registered in this host: check the name, or "
                    "run with a threestudio that has it (THREESTUDIO_ROOT)."
                )
    return problems


def _text(report: Report) -> str:
    lines = ["Installed"]
    lines += [f"  {name:<26}{version}" for name, version in report.versions.items()]
    lines += [f"  {name:<26}{state}" for name, state in report.compiled.items()]
    lines += [
        f"  GPU {index:<22}{gpu['name']}, {gpu['total']:.1f} GiB, {gpu['free']:.1f} free, "
        f"compute capability {gpu['capability']}"
        for index, gpu in enumerate(report.gpus)
    ]
    if report.threestudio:
        lines += ["", f"What threestudio at {report.threestudio['checkout']} imports"]
        packages = report.threestudio["packages"]
        lines += [f"  {p['line']}" for p in packages if p["state"] == "here"]
    if report.weights:
        lines += ["", "Weights"]
        lines += [_weight_line(row) for row in report.weights]
    if report.memory:
        lines += ["", "GPU memory, estimated"]
        lines += [f"  {gib:6.1f} GiB  {name}" for name, gib in report.memory.items()]
    lines += ["", *(f"Note: {note}" for note in report.notes)] if report.notes else []
    lines += ["", *(f"Problem: {problem}" for problem in report.problems)]
    return "\n".join(lines if report.problems else [*lines, "Nothing is missing."])


def _weight_line(row: dict[str, Any]) -> str:
    size = "         ?" if row["gib"] is None else f"{row['gib']:6.2f} GiB"
    return f"  {size}  {row['state']:<12} {row['name']} {row['part']}".rstrip()
