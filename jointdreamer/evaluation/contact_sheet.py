"""Puts the turntables of several runs side by side: a row for each run, a column per azimuth."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from threestudio_jointdreamer.systems.picture_grid import Tile, picture_grid, save_picture
from threestudio_jointdreamer.systems.turntable import SHEET_AZIMUTHS, nearest_views

from ..runs import Run


def compare_runs(runs: Sequence[Run], path: str | Path, labels: Sequence[str] | None = None) -> str:
    """Writes a picture of the 8 azimuths of every run, and returns its path.

    Args:
        labels: one for each run; by default the name of its folder.

    Raises:
        FileNotFoundError: a run has no test renders.
    """
    rows = [turntable_tiles(run) for run in runs]
    names = labels or [run.folder.name.replace("_", " ") for run in runs]
    columns = [f"{azimuth}°" for azimuth in SHEET_AZIMUTHS]
    return save_picture(path, picture_grid(rows, row_labels=names, column_labels=columns))


def turntable_tiles(run: Run) -> list[Tile]:
    """The test frames of a run that are nearest to the sheet's azimuths.

    threestudio's turntable closes the circle: the last of its n frames is at 360° as the first is
    at 0°. Of a frame that shows more than the render, the left square is taken.
    """
    frames = sorted(run.newest("test").glob("*.png"), key=lambda frame: int(frame.stem))
    if not frames:
        raise FileNotFoundError(f"{run.newest('test')} holds no frames. Test the run again.")
    azimuths = np.linspace(0.0, 360.0, len(frames)).tolist()
    return [_left_square(frames[index]) for index in nearest_views(azimuths, SHEET_AZIMUTHS)]


def _left_square(path: Path) -> Tile:
    with Image.open(path) as frame:
        return np.asarray(frame.convert("RGB"))[:, : frame.height]
