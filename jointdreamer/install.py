"""`jointdreamer install`: the extension, its configs and priors at home in a real threestudio."""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from threestudio_jointdreamer import HOST_VERSIONS

from . import links
from .gitexclude import exclude_file, write_block

CLONE = Path(__file__).resolve().parents[1]
EXTENSION = "custom/threestudio-jointdreamer"
ENCODINGS = "jointdreamer/standalone/tinycudann"
PRIORS = ("load/tiny", "load/prompts")
PARTS = ("launch.py", "configs", "custom", "load")  # of a checkout, besides its package
# where the installed tiny-cuda-nn is; nothing and status 1 if there is none that works here
PROBE = "import sys; sys.path.pop(0); import tinycudann; print(tinycudann.__file__)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Link the extension, its configs and load/ into a checkout of threestudio."
    parser.epilog = (
        "Run again it links what is new, and mends links after this folder was moved. "
        "Nothing that is there is overwritten."
    )
    parser.add_argument("--threestudio", type=Path, required=True, metavar="PATH", help="checkout")
    parser.add_argument("--uninstall", action="store_true", help="undo it, and nothing else")
    parser.add_argument(
        "--no-git-exclude",
        action="store_true",
        help="leave .git/info/exclude alone; `git status` then shows the links",
    )
    parser.set_defaults(run=install)


def install(args: argparse.Namespace) -> None:
    """Links, or with --uninstall removes the links, and prints what was done.

    Raises:
        ValueError: no checkout of a threestudio that fits, something is in a link's place, the
            record is damaged, or this machine makes no links.
        OSError: if something cannot be written.
    """
    checkout = Path(os.path.abspath(args.threestudio))
    if args.uninstall:
        print("\n".join(uninstalled(checkout)))
    else:
        print("\n".join(installed(checkout, git_exclude=not args.no_git_exclude)))


def installed(checkout: Path, git_exclude: bool = True) -> list[str]:
    """Links what is missing.

    Returns:
        What was done, a line each.

    Raises:
        ValueError, OSError: as `install`.
    """
    check_clone()
    check_checkout(checkout)
    record = links.read_record(checkout)
    encodings = _installed_encodings()
    wanted = wanted_links()
    if encodings is None or (record and "tinycudann" in record.links):
        wanted["tinycudann"] = CLONE / ENCODINGS
    plan = links.make_plan(checkout, wanted, record)
    try:
        links.carry_out(checkout, plan, wanted, record)
    except (OSError, NotImplementedError) as error:
        if not isinstance(error, NotImplementedError) and not _refuses_links(error):
            raise
        raise ValueError(
            f"{checkout}: this system makes no symbolic links ({error}). On Windows switch on "
            "Developer Mode; on a disk without links set THREESTUDIO_ROOT to the checkout and use "
            "the launch.py beside this extension, which needs none. Nothing was changed."
        ) from error
    lines = [f"linked   {path}" for path in plan.make]
    lines += [f"mended   {path}" for path in plan.mend]
    lines += [f"removed  {path}, which is not in {CLONE} any more" for path in plan.drop]
    lines += [f"yours    {path} leads here already" for path in plan.hand_made]
    if not plan:
        lines.append(f"Nothing to do: {checkout} has all the links.")
    lines.append(_about_git(checkout, git_exclude))
    lines.append(_about_encodings(encodings))
    return [
        *lines,
        f"What threestudio itself needs: jointdreamer doctor --threestudio {checkout}",
        f"Try: cd {checkout} && python launch.py --config configs/tiny/jointdreamer.yaml --train "
        'system.prompt_processor.prompt="a red bear"',
    ]


def uninstalled(checkout: Path) -> list[str]:
    """Undoes `installed`, also of a threestudio that has changed or from a clone that moved.

    Returns:
        What was done, a line each.

    Raises:
        ValueError: no such folder, or the record is damaged.
    """
    if not checkout.is_dir():
        raise ValueError(f"--threestudio {checkout} is no folder: check the path.")
    record = links.read_record(checkout)
    if record is None:
        return [f"Nothing to do: {checkout} has no {links.RECORD}, so nothing was installed."]
    file = exclude_file(checkout)
    if file is not None:
        write_block(file, [])
    result = links.take_back(checkout, record)
    lines = [f"removed  {path}" for path in result.removed]
    lines += [f"gone     {path} was removed before" for path in result.gone]
    return lines + [f"kept     {path}: it is not our link any more" for path in result.replaced]


def check_clone() -> None:
    """Raises a ValueError if this extension does not lie in a clone of its repository."""
    needed = (EXTENSION, ENCODINGS, "configs/jointdreamer.yaml", *PRIORS)
    if not all((CLONE / path).exists() for path in needed):
        raise ValueError(
            f"this extension, at {Path(__file__).parent}, was installed without its configs and "
            "priors: clone its repository, `pip install -e .` there, and run this again."
        )


def check_checkout(checkout: Path) -> None:
    """Raises a ValueError if it is no checkout of a threestudio that the extension fits."""
    package = checkout / "threestudio" / "__init__.py"
    missing = [name for name in PARTS if not (checkout / name).exists()]
    if not package.is_file() or missing:
        lacking = ", ".join([*([] if package.is_file() else ["threestudio/__init__.py"]), *missing])
        raise ValueError(
            f"--threestudio {checkout} is no checkout of threestudio (no {lacking}): give the "
            "folder that `git clone` of threestudio made."
        )
    version = checkout_version(checkout)
    from packaging.specifiers import SpecifierSet

    if version is None or version not in SpecifierSet(",".join(HOST_VERSIONS)):
        raise ValueError(
            f"--threestudio {checkout} is threestudio {version or 'of unknown version'}, but this "
            f"extension needs {' and '.join(HOST_VERSIONS)}: check out 0.2.3."
        )


def checkout_version(checkout: Path) -> str | None:
    """As its package says, without importing it."""
    text = (checkout / "threestudio" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r"""^__version__\s*=\s*["']([^"']+)["']""", text, re.MULTILINE)
    return found and found[1]


def wanted_links() -> dict[str, Path]:
    """What each link shall point to, by its path in a checkout; tinycudann aside."""
    configs = [
        entry
        for entry in sorted((CLONE / "configs").iterdir())
        if entry.suffix == ".yaml" or (entry.is_dir() and any(entry.glob("*.yaml")))
    ]
    paths = [EXTENSION, *(f"configs/{entry.name}" for entry in configs), *PRIORS]
    return {path: CLONE / path for path in paths}


def _installed_encodings() -> str | None:
    """The folder of a working tiny-cuda-nn, or None if there is only ours or none."""
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    if done.returncode != 0:
        return None
    folder = Path(done.stdout.strip().rpartition("\n")[2]).resolve().parent
    return None if folder == CLONE / ENCODINGS else str(folder)


def _refuses_links(error: OSError) -> bool:
    no_privilege, not_permitted = 1314, 1  # Windows; file systems without links
    return getattr(error, "winerror", None) == no_privilege or error.errno == not_permitted


def _about_git(checkout: Path, exclude: bool) -> str:
    """Sees to .git/info/exclude; returns a line about it."""
    file = exclude_file(checkout)
    if file is None:
        return "git      the checkout is no git repository of its own"
    if not exclude:
        write_block(file, [])
        return "git      `git status` shows the links outside custom/"
    record = links.read_record(checkout)
    try:
        write_block(file, [links.RECORD, *sorted(record.links if record else {})])
    except OSError as error:
        return f"git      `git status` shows the links: {error}"
    return f"git      {file} hides the links from `git status`"


def _about_encodings(installed: str | None) -> str:
    if installed is not None:
        return f"encodings: tiny-cuda-nn at {installed}"
    return (
        "encodings: in PyTorch (tinycudann/); a tiny-cuda-nn that is installed later and works "
        "takes over by itself"
    )
