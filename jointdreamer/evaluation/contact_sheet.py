"""Puts the turntables of several runs side by side: a row for each run, a column per azimuth."""

from collections.abc import Sequence
from pathlib import Path

from threestudio_jointdreamer.systems.picture_grid import Tile, picture_grid, save_picture
from threestudio_jointdreamer.systems.turntable import SHEET_AZIMUTHS, nearest_views

from ..runs import Run, read_picture, turntable


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
    """The test frames of a run that are nearest to the sheet's azimuths, the left square of each"""
    found = turntable(run.newest("test"))
    chosen = nearest_views(found.azimuths_deg, SHEET_AZIMUTHS)
    return [read_picture(found.paths[index], found.aspect or 1) for index in chosen]
