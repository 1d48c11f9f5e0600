"""Which views of a turntable go on a contact sheet, and how the sheet looks."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from .picture_grid import Tile, picture_grid

SHEET_AZIMUTHS = tuple(range(0, 360, 45))
SHEET_COLUMNS = 4


def nearest_views(azimuths: Sequence[float], wanted: Sequence[float]) -> list[int]:
    """For each wanted azimuth (degrees) the index of the nearest one on the circle."""

    def apart(a: float, b: float) -> float:
        return abs((a - b + 180) % 360 - 180)

    return [
        min(range(len(azimuths)), key=lambda index: apart(azimuths[index], target))
        for target in wanted
    ]


def contact_sheet(tiles: Sequence[Tile], azimuths: Sequence[float]) -> Image.Image:
    """Views of one asset in rows of four, each labelled with its azimuth; 0° is the front."""
    cells = [
        np.asarray(picture_grid([[tile]], column_labels=[f"{round(azimuth) % 360}°"]))
        for tile, azimuth in zip(tiles, azimuths, strict=True)
    ]
    rows = [
        np.concatenate(cells[i : i + SHEET_COLUMNS], axis=1)
        for i in range(0, len(cells), SHEET_COLUMNS)
    ]
    return Image.fromarray(np.concatenate(rows, axis=0))
