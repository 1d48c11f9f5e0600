"""Imports modules of a checkout that was written for other times, and leaves no trace of it."""

import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any


@contextmanager
def importing_from(
    root: str | Path,
    bare: Iterable[str] = (),
    stubs: Mapping[str, Mapping[str, Any]] | None = None,
) -> Iterator[None]:
    """Imports in the block look in `root` first; afterwards `sys` is as it was.

    Args:
        root: the checkout.
        bare: packages of the checkout whose own `__init__` is passed over.
        stubs: modules that stand for ones which are missing or too much, each with its contents.

    Raises:
        FileNotFoundError: `root` is no folder.
    """
    if not Path(root).is_dir():
        raise FileNotFoundError(f"There is no checkout {root}.")
    path, modules = list(sys.path), dict(sys.modules)
    sys.path.insert(0, str(Path(root).resolve()))
    for name in bare:
        package = ModuleType(name)
        package.__path__ = [str(Path(root).resolve().joinpath(*name.split(".")))]
        sys.modules[name] = package
    for name, contents in (stubs or {}).items():
        stub = ModuleType(name)
        vars(stub).update(contents)
        sys.modules[name] = stub
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = path
        new = set(sys.modules) - set(modules)
        inside = str(Path(root).resolve())
        theirs = {
            name.partition(".")[0]
            for name in new
            if inside in str(getattr(sys.modules[name], "__file__", ""))
        }
        for name in new:  # packages without a file too
            if name.partition(".")[0] in theirs:
                del sys.modules[name]
        for name in (*bare, *(stubs or {})):
            sys.modules.pop(name, None)
            if name in modules:
                sys.modules[name] = modules[name]
