"""threestudio-jointdreamer: Joint Score Distillation as an ordinary threestudio extension.

threestudio imports this folder as `threestudio-jointdreamer`, pip installs it as
`threestudio_jointdreamer`. When both happen in one process the second import becomes another
name of the first, so nothing is registered twice.
"""

import logging
import sys
from types import ModuleType

EXTENSION = "threestudio-jointdreamer"
HOST_VERSIONS = (">=0.2.3", "<0.3")


def _twin() -> ModuleType | None:
    """This extension, if it is loaded already under another name."""
    for name, module in list(sys.modules.items()):
        if name != __name__ and getattr(module, "__dict__", {}).get("EXTENSION") == EXTENSION:
            return module
    return None


def _become(twin: ModuleType) -> None:
    """Makes this module's name, and those of its loaded submodules, names of `twin`."""
    original = twin.__name__
    if twin.__file__ != __file__:
        logging.getLogger(__name__).warning(
            "%s is loaded from %s; the copy at %s is not used.", EXTENSION, twin.__file__, __file__
        )
    for name, module in list(sys.modules.items()):
        if name == original or name.startswith(original + "."):
            sys.modules[__name__ + name.removeprefix(original)] = module


def _check_host() -> None:
    import threestudio
    from packaging.specifiers import SpecifierSet

    version = getattr(threestudio, "__version__", "unknown")
    if version == "unknown" or version not in SpecifierSet(",".join(HOST_VERSIONS)):
        raise ValueError(
            f"threestudio {version} at {threestudio.__file__} does not fit {EXTENSION}, which "
            f"needs {' and '.join(HOST_VERSIONS)}. Check out threestudio 0.2.3, or remove it from "
            "the path to run on the standalone host."
        )


if (_loaded := _twin()) is not None:
    _become(_loaded)
else:
    _check_host()
    from . import data, energies, guidance, prompts, systems  # noqa: F401
