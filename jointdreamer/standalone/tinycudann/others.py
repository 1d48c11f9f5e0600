"""Finds NVIDIA's tiny-cuda-nn where this package lies before it on the path."""

import importlib.machinery
import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

NAME = "tinycudann"


def find_other() -> ModuleSpec | None:
    """The first `tinycudann` on the path that is no copy of this package."""
    for folder in sys.path:
        spec = importlib.machinery.PathFinder.find_spec(NAME, [folder])
        if spec is None or spec.origin is None:  # a bare folder is no package
            continue
        if not Path(spec.origin).with_name(Path(__file__).name).is_file():
            return spec
    return None


def load_other() -> tuple[ModuleType | None, str | None]:
    """Imports that `tinycudann` in this package's place, unless JOINTDREAMER_TINYCUDANN=0.

    Returns:
        It, or None; and if there is one that does not work here, where it is and why.
    """
    spec = find_other() if os.environ.get("JOINTDREAMER_TINYCUDANN", "1") != "0" else None
    if spec is None:
        return None, None
    ours = _take_away()
    module = sys.modules[NAME] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # built for another GPU or another torch: it raises all sorts
        _take_away()
        sys.modules.update(ours)
        reason = " ".join(str(error).split()) or type(error).__name__
        return None, f"the one at {Path(spec.origin).parent} does not work here: {reason}"
    return sys.modules[NAME], None


def _take_away() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name == NAME or name.startswith(f"{NAME}.")]
    return {name: sys.modules.pop(name) for name in names}
