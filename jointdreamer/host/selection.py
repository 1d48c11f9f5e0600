"""Decides which threestudio runs, and loads the extensions."""

import importlib
import importlib.util
import os
import sys
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from .load_links import link_load_folder

EXTENSION = "threestudio_jointdreamer"
STANDALONE = Path(__file__).resolve().parents[1] / "standalone"
EXTENSIONS_FOLDER = Path(__file__).resolve().parents[2] / "custom"


def ensure_host() -> Path:
    """Makes `threestudio` and `tinycudann` importable, and says in one line which they are.

    `threestudio` is the checkout that the environment variable THREESTUDIO_ROOT names, or else an
    installed one, or else the standalone host in jointdreamer/standalone. `tinycudann` is an
    installed one that works on this machine, or else the standalone host's. Calling it again
    changes nothing. A checkout stays as it is (see `link_load_folder`).

    Returns:
        The folder of the `threestudio` package.

    Raises:
        ValueError: if THREESTUDIO_ROOT is no checkout of threestudio, or cannot be used so.
    """
    root = os.environ.get("THREESTUDIO_ROOT")
    if root and "threestudio" not in sys.modules:
        if not (Path(root) / "threestudio" / "__init__.py").is_file():
            raise ValueError(
                f"THREESTUDIO_ROOT={root} holds no threestudio/__init__.py: set it to a checkout "
                "of threestudio, or unset it to use the standalone host."
            )
        _put_on_path(str(Path(root).resolve()), first=True)
        link_load_folder(Path(root).resolve())
    encodings = _encodings()
    if _find("tinycudann") is None or _find("threestudio") is None:
        _put_on_path(str(STANDALONE), first=False)
    folder = Path(_find("threestudio").origin).resolve().parent
    host = "the standalone host" if folder.is_relative_to(STANDALONE) else str(folder.parent)
    _say_once(f"threestudio: {host}; tinycudann: {encodings}")
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


def _encodings() -> str:
    """Where `tinycudann` is, once it is settled that a broken one is not imported."""
    module = sys.modules.get("tinycudann")
    if module is None:
        found, ours = _find("tinycudann"), STANDALONE / "tinycudann"
        if found is None or Path(found.origin).parent == ours:
            return "in PyTorch"
        # an installed one, or a checkout's link to ours: ours gives way to one that works here
        module = _load("tinycudann", ours)
    if not hasattr(module, "why_not_other"):
        return f"{Path(module.__file__).parent} (JOINTDREAMER_TINYCUDANN=0 takes ours)"
    return f"in PyTorch ({module.why_not_other})" if module.why_not_other else "in PyTorch"


def _load(name: str, entry: Path) -> ModuleType:
    """Imports a package's folder, or a .py file, as `name`, wherever it lies."""
    is_package = entry.is_dir()
    spec = importlib.util.spec_from_file_location(
        name,
        entry / "__init__.py" if is_package else entry,
        submodule_search_locations=[str(entry)] if is_package else None,
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
    """Imports the extension: the one of the clone that this file lies in, or the installed one.

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
            f"({error}): install what it needs (`jointdreamer doctor` names it), or unset "
            "THREESTUDIO_ROOT to use the standalone host."
        ) from error
    if EXTENSION in sys.modules:
        return sys.modules[EXTENSION]
    folder = EXTENSIONS_FOLDER / "threestudio-jointdreamer"
    if folder.is_dir():
        return _load(EXTENSION, folder)
    return importlib.import_module(EXTENSION)


def load_other_extensions(folder: Path = EXTENSIONS_FOLDER) -> list[str]:
    """Imports every other extension in `custom/`, as threestudio's launcher does.

    Extensions are folders with an `__init__.py` and single .py files; names that end in
    `_disabled` are left out. One that cannot be imported is reported and does not stop the rest.

    Returns:
        The names of those that were imported.
    """
    loaded = []
    for entry in sorted(folder.glob("*")):
        name = entry.stem
        if not ((entry / "__init__.py").is_file() or entry.suffix == ".py"):
            continue
        if name == "threestudio-jointdreamer" or name.endswith("_disabled") or name in sys.modules:
            continue
        try:
            _load(name, entry)
            loaded.append(name)
        except Exception as error:
            _say_once(f"custom/{entry.name} cannot be imported, so is missing: {error!r}")
    return loaded


def use_stand_in_if_broken() -> None:
    """Lets the standalone host take the place of a threestudio that cannot be imported."""
    try:
        importlib.import_module("threestudio")
    except Exception as error:  # what is missing, too new, or built for another machine
        broken = Path(_find("threestudio").origin).parent
        _say_once(f"{broken} cannot be imported ({error}): the standalone host stands in for it.")
        for name in [name for name in sys.modules if name.split(".")[0] == "threestudio"]:
            del sys.modules[name]
        _load("threestudio", STANDALONE / "threestudio")
