"""What a checkout of threestudio keeps in its load/ folder, for runs that start in our clone."""

import os
from pathlib import Path

LOAD = Path(__file__).resolve().parents[2] / "load"


def link_load_folder(checkout: Path, load: Path = LOAD) -> None:
    """Links threestudio's tetrahedra, lights, shapes and prompts into our load/, ignored by git.

    threestudio opens them as load/..., from the folder that a run starts in. Only a run that
    starts in our clone needs the links. What is there already stays, but for such links of before.

    Args:
        checkout: it is left as it is.

    Raises:
        ValueError: if the links cannot be made.
    """
    if Path("load").resolve() != load or not (checkout / "load").is_dir():
        return
    for theirs in sorted((checkout / "load").resolve().iterdir()):
        ours = load / theirs.name
        stays = os.path.lexists(ours) and not _leads_to_a_checkout(ours)
        if stays or theirs.resolve().is_relative_to(load.parent):
            continue
        beside = load / f".{theirs.name}.new-{os.getpid()}"
        try:
            os.symlink(theirs, beside, theirs.is_dir())
            os.replace(beside, ours)
        except (OSError, NotImplementedError) as error:
            beside.unlink(missing_ok=True)
            raise ValueError(
                f"threestudio's {theirs} cannot be linked into {load} ({error}): start in the "
                "checkout instead, or run `jointdreamer install --threestudio` and its launch.py."
            ) from error


def _leads_to_a_checkout(path: Path) -> bool:
    """Or to where one once was."""
    target = Path(os.readlink(path)) if path.is_symlink() else Path()
    return target.parent.name == "load" and (
        not target.exists() or (target.parents[1] / "threestudio" / "__init__.py").is_file()
    )
