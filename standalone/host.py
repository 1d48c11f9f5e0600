"""Decides which threestudio runs, loads the extensions, and starts the `jointdreamer` command."""

import importlib
import importlib.util
import os
import sys
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from . import errors

HERE = Path(__file__).resolve().parent
EXTENSION = "threestudio_jointdreamer"
EXTENSIONS_FOLDER = HERE.parent / "custom"


def ensure_host() -> Path:
    """Makes `threestudio` and `tinycudann` importable, and says in one line which they are.

    `threestudio` is the checkout that the environment variable THREESTUDIO_ROOT names, or else an
    installed one, or else the standalone host beside this file. `tinycudann` is an installed one
    that works on this machine, or else the standalone host's. Calling it again changes nothing.

    Returns:
        The folder of the `threestudio` package.

    Raises:
        ValueError: if THREESTUDIO_ROOT is no checkout of threestudio.
    """
    root = os.environ.get("THREESTUDIO_ROOT")
    if root and "threestudio" not in sys.modules:
        if not (Path(root) / "threestudio" / "__init__.py").is_file():
            raise ValueError(
                f"THREESTUDIO_ROOT={root} holds no threestudio/__init__.py: set it to a checkout "
                "of threestudio, or unset it to use the standalone host."
            )
        _put_on_path(str(Path(root).resolve()), first=True)
    installed = _find("tinycudann") is not None and not _is_ours("tinycudann")
    encodings = _working_tinycudann() if installed else None
    if encodings is None or _find("threestudio") is None:
        _put_on_path(str(HERE), first=False)
    if installed and encodings is None:
        _load_package("tinycudann", HERE / "tinycudann")  # the path would find the broken one
    folder = Path(_find("threestudio").origin).resolve().parent
    host = "the standalone host" if _is_ours("threestudio") else str(folder.parent)
    where = "in PyTorch" if encodings is None else str(Path(encodings.__file__).parent)
    _say_once(f"threestudio: {host}; tinycudann: {where}")
    return folder


@cache
def _say_once(text: str) -> None:
    from pytorch_lightning.utilities.rank_zero import rank_zero_info  # takes seconds, so late

    rank_zero_info(text)


def _put_on_path(folder: str, first: bool) -> None:
    if folder not in sys.path:
        sys.path.insert(0 if first else len(sys.path), folder)


def _find(name: str) -> ModuleSpec | None:
    spec = importlib.util.find_spec(name)
    return None if spec is None or spec.origin is None else spec  # a bare folder is no package


def _is_ours(name: str) -> bool:
    return Path(_find(name).origin).resolve().is_relative_to(HERE)


def _working_tinycudann() -> ModuleType | None:
    try:
        return importlib.import_module("tinycudann")
    except Exception as error:  # built for another GPU or another torch: it raises all sorts
        _say_once(f"The installed tinycudann does not work here ({error}).")
        return None


def _load_package(name: str, folder: Path) -> ModuleType:
    """Imports the package in `folder` as `name`, wherever it lies."""
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return sys.modules[name]  # a module may put another in its place


def load_extension() -> ModuleType:
    """Imports the extension as `threestudio_jointdreamer`: the installed one, or the checkout's.

    Raises:
        ValueError: if the host that `ensure_host` chose cannot be imported.
    """
    try:
        importlib.import_module("threestudio")
    except ImportError as error:
        if "THREESTUDIO_ROOT" not in os.environ:
            raise
        raise ValueError(
            f"threestudio in THREESTUDIO_ROOT={os.environ['THREESTUDIO_ROOT']} cannot be imported "
            f"({error}): install what it needs, or unset THREESTUDIO_ROOT to use the standalone "
            "host."
        ) from error
    if EXTENSION in sys.modules:
        return sys.modules[EXTENSION]
    if importlib.util.find_spec(EXTENSION) is not None:
        return importlib.import_module(EXTENSION)
    return _load_package(EXTENSION, EXTENSIONS_FOLDER / "threestudio-jointdreamer")


def load_other_extensions(folder: Path = EXTENSIONS_FOLDER) -> list[str]:
    """Imports every other extension in `custom/`, as threestudio's launcher does.

    Extensions are folders with an `__init__.py` and single .py files; names that end in
    `_disabled` are left out. One that cannot be imported is reported and does not stop the rest.

    Returns:
        The names of those that were imported.
    """
    loaded = []
    for entry in sorted(folder.glob("*")) if folder.is_dir() else []:
        is_package = (entry / "__init__.py").is_file()
        if entry.name == "threestudio-jointdreamer" or entry.stem.endswith("_disabled"):
            continue
        if not (is_package or entry.suffix == ".py") or entry.stem in sys.modules:
            continue
        try:
            _load_extension_file(entry.stem, entry)
        except Exception as error:
            _say_once(f"custom/{entry.name} cannot be imported, so is missing: {error!r}")
        else:
            loaded.append(entry.stem)
    return loaded


def _load_extension_file(name: str, entry: Path) -> None:
    if entry.is_dir():
        _load_package(name, entry)
        return
    spec = importlib.util.spec_from_file_location(name, entry)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module


def main(argv: list[str] | None = None) -> int:
    """The `jointdreamer` command.

    Returns:
        The program's exit code: 2 after one line `error: ...` about something the user can mend.
    """
    from .trainer import run  # the extension does not know its host, and so not the launcher

    argv = sys.argv[1:] if argv is None else argv
    with errors.reported(verbose="--verbose" in argv) as outcome:
        ensure_host()
        load_extension()
        outcome.code = importlib.import_module(f"{EXTENSION}.cli").main(argv, run=run)
    return outcome.code
