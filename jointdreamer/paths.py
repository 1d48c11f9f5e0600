"""Where configs and shipped weights are: in a clone, or in an installed package."""

import importlib.util
from pathlib import Path

EXTENSION = "threestudio_jointdreamer"


def find_file(path: str | Path, named: str) -> Path:
    """A file, looked up in the working directory, then in what came with this package.

    Args:
        path: relative paths are as in a clone, such as configs/tiny/jointdreamer.yaml.
        named: what the user calls it, such as `--config`.

    Raises:
        FileNotFoundError: names `named` and the path.
    """
    found = find_shipped(path)
    if found is None or not found.is_file():
        raise FileNotFoundError(
            f"{named} {path} does not exist. Give a file, such as configs/tiny/jointdreamer.yaml."
        )
    return found


def find_shipped(path: str | Path) -> Path | None:
    """A file or folder, looked up as `find_file` does; None if there is none."""
    path = Path(path).expanduser()
    return next((base / path for base in (Path(), *_roots()) if (base / path).exists()), None)


def _roots() -> list[Path]:
    """A clone's folder is above both packages; an installed package has its own configs or load."""
    files = [__file__]
    spec = importlib.util.find_spec(EXTENSION)
    if spec is not None and spec.origin is not None:
        files.append(spec.origin)
    return [parent for file in files for parent in Path(file).resolve().parents[:3]]
