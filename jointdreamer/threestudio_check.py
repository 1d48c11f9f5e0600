"""Tries whether threestudio can be imported here, and what it lacks if not."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .threestudio_needs import NEEDS, Need

PROBE_SECONDS = 300

HERE, MISSING, WRONG = "here", "missing", "does not fit"

# imports one module after the other, and says how each went; the last is threestudio itself
_PROBE = """
import importlib, json, os, sys, warnings
warnings.simplefilter("ignore")
sys.path = [sys.argv[1], *sys.path[1:], *sys.argv[3:]]
for module, names in [*json.loads(sys.argv[2]), ["threestudio", []]]:
    answer = {"module": module, "error": None}
    print(json.dumps({"starts": module}), flush=True)
    try:
        found = importlib.import_module(module)
        answer["folder"] = os.path.dirname(os.path.realpath(found.__file__ or ""))
        lacking = [name for name in names if not hasattr(found, name)]
        if lacking:
            answer["error"] = "it has no " + ", ".join(lacking)
    except ImportError as error:
        answer |= {"error": str(error), "lacks": error.name}
    except Exception as error:
        answer["error"] = f"{type(error).__name__}: {error}"
    print(json.dumps(answer), flush=True)
"""


@dataclass(frozen=True)
class Finding:
    """How one need is met.

    Attributes:
        state: `here`, `missing` or `does not fit`; why: what it does not fit, or the error.
        version: as pip knows it, or else the folder that it is in.
    """

    need: Need
    state: str
    version: str = ""
    why: str = ""

    def line(self) -> str:
        """State, version, the command where something is to be done, and the reason."""
        name = " ".join(part for part in (self.need.package, self.version) if part)
        reason = f" ({self.need.reason})" if self.need.reason else ""
        if self.state == HERE:
            return f"{name}{reason}"
        error = f", {self.why}" if self.why else ""
        return f"{name} {self.state}{error}: {self.need.mend}{reason}"


def find_checkout(named: Path | None) -> Path | None:
    """The threestudio that is meant: `named`, THREESTUDIO_ROOT's, the folder we are in, or the one
    that is installed in editable mode.

    Raises:
        ValueError: if `named` is no checkout.
    """
    if named is not None and not _is_checkout(named):
        raise ValueError(f"--threestudio {named} holds no threestudio/__init__.py: check the path.")
    root = os.environ.get("THREESTUDIO_ROOT")
    for folder in (named, Path(root) if root else None, Path(), _installed()):
        if folder is not None and _is_checkout(folder) and (folder / "launch.py").is_file():
            return folder.resolve()
    return None


def _installed() -> Path | None:
    spec = importlib.util.find_spec("threestudio")
    return Path(spec.origin).parents[1] if spec and spec.origin else None


def _is_checkout(folder: Path) -> bool:
    return (folder / "threestudio" / "__init__.py").is_file()


def examine(
    checkout: Path, needs: tuple[Need, ...] | None = None, own_launcher: bool = False
) -> tuple[list[Finding], str | None]:
    """Tries what the checkout imports, in a process of its own; takes ten seconds and more.

    Args:
        needs: default: `NEEDS`.
        own_launcher: it runs by the launcher that this process came from, which provides
            tinycudann; else by its own launch.py.

    Returns:
        A finding for each need, and why threestudio cannot be imported (None if it can).
    """
    needs = NEEDS if needs is None else needs
    found = importlib.util.find_spec("tinycudann") if own_launcher else None
    path = [] if found is None or found.origin is None else [Path(found.origin).parents[1]]
    answers, died_at = _probe(checkout, needs, path)
    findings = []
    for need in needs:
        answer = answers.get(need.module)
        version = _version(need.package) or (answer or {}).get("folder", "")
        if answer is None:
            why = "importing it ends Python" if need.module == died_at else "not tried"
            findings.append(Finding(need, WRONG, version, why))
        elif answer["error"] is not None:
            absent = answer.get("lacks") == need.module.partition(".")[0]
            why = "" if absent else _one_line(answer["error"])
            findings.append(Finding(need, MISSING if absent else WRONG, version, why))
        elif need.fits and not _fits(version, need.fits):
            findings.append(Finding(need, WRONG, version, f"it should be {need.fits}"))
        else:
            findings.append(Finding(need, HERE, version))
    whole = answers.get("threestudio", {"error": "importing it ends Python"})
    return findings, whole["error"] and _one_line(whole["error"])


def _probe(
    checkout: Path, needs: tuple[Need, ...], path: list[Path]
) -> tuple[dict[str, dict], str | None]:
    """Answers by module, and the module at whose import the process died."""
    asked = json.dumps([[need.module, need.names] for need in needs])
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, str(checkout), asked, *map(str, path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=checkout,
            timeout=PROBE_SECONDS,
        )
        printed = done.stdout
    except subprocess.TimeoutExpired as expired:
        printed = (expired.stdout or b"").decode(errors="replace")
    answers: dict[str, dict] = {}
    started = None
    for line in printed.splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            continue  # what a package prints when it is imported
        if isinstance(said, dict) and "starts" in said:
            started = said["starts"]
        elif isinstance(said, dict) and "module" in said:
            answers[said["module"]] = said
    return answers, started if started not in answers else None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _fits(version: str, specifier: str) -> bool:
    """False only if it is known not to fit: what pip did not install has no version."""
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion

    try:
        return SpecifierSet(specifier).contains(version, prereleases=True)
    except InvalidVersion:
        return True


def _one_line(text: str) -> str:
    return " ".join(text.split())
