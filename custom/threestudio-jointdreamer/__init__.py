"""threestudio-jointdreamer: Joint Score Distillation as an ordinary threestudio extension.

Its files are modules of `threestudio_jointdreamer`, whoever imports them. threestudio names an
extension after its folder, which is no name that Python code could import from: under that name
this file only loads the package.
"""

import importlib.util
import logging
import sys
from importlib.metadata import entry_points
from pathlib import Path

PACKAGE = "threestudio_jointdreamer"
HOST_VERSIONS = (">=0.2.3", "<0.3")


def _load_package() -> None:
    """Loads this folder as `PACKAGE`, unless that is loaded already."""
    if (loaded := sys.modules.get(PACKAGE)) is not None:
        if Path(loaded.__file__).resolve() != Path(__file__).resolve():
            logging.getLogger(__name__).warning(
                "%s is loaded from %s; the copy at %s is not used.",
                PACKAGE,
                loaded.__file__,
                __file__,
            )
        return
    spec = importlib.util.spec_from_file_location(
        PACKAGE, __file__, submodule_search_locations=[str(Path(__file__).parent)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = package
    try:
        spec.loader.exec_module(package)
    except BaseException:
        del sys.modules[PACKAGE]
        raise


def _check_host() -> None:
    """Makes sure that `import threestudio` gives a threestudio that the extension fits.

    Where there is none, a package may provide one by an entry point of the group
    `threestudio_jointdreamer.host`, a function that makes it importable.
    """
    if "threestudio" not in sys.modules and importlib.util.find_spec("threestudio") is None:
        for provider in entry_points(group=f"{PACKAGE}.host"):
            provider.load()()
    import threestudio
    from packaging.specifiers import SpecifierSet

    version = getattr(threestudio, "__version__", "unknown")
    if version == "unknown" or version not in SpecifierSet(",".join(HOST_VERSIONS)):
        raise ValueError(
            f"threestudio {version} at {threestudio.__file__} does not fit this extension, which "
            f"needs {' and '.join(HOST_VERSIONS)}. Check out threestudio 0.2.3, or remove it from "
            "the path to run on the standalone host."
        )


if __name__ == PACKAGE:
    _check_host()
    from . import data, energies, exporters, gaussians, guidance, meshes, prompts, systems  # noqa: F401
else:
    _load_package()
    __path__ = []  # nothing is importable under this name, too
