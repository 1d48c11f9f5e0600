"""Grids and contact sheets: every picture where its label says."""

import numpy as np
import pytest
import torch
from threestudio_jointdreamer.systems.picture_grid import (
    GAP,
    PAPER,
    picture_grid,
    to_tile,
)
from threestudio_jointdreamer.systems.turntable import contact_sheet, nearest_views


def plain(value: int, size: int = 100) -> np.ndarray:
    return np.full((size, size, 3), value, np.uint8)


def test_tile_rounds_clamps_and_repeats_grey():
    tile = to_tile(torch.tensor([[[0.5], [2.0]], [[-1.0], [float("nan")]]]))
    assert tile.shape == (2, 2, 3) and tile.dtype == np.uint8
    assert tile[..., 0].tolist() == [[128, 255], [0, 0]]
    assert (tile == tile[..., :1]).all()


def test_grid_puts_rows_below_and_columns_beside_each_other():
    grid = np.asarray(picture_grid([[plain(10), plain(20)], [plain(30)]]))
    cell = 100 + GAP
    assert grid[GAP + 50, GAP + 50, 0] == 10
    assert grid[GAP + 50, GAP + cell + 50, 0] == 20
    assert grid[GAP + cell + 50, GAP + 50, 0] == 30
    assert tuple(grid[GAP + cell + 50, GAP + cell + 50]) == PAPER


def test_labels_leave_the_pictures_untouched_and_small_ones_grow_until_they_fit():
    for size, shown in ((100, 100), (8, 96)):
        tiles = [[plain(10, size)] * 2] * 2
        grid = picture_grid(tiles, ["first", "second"], ["left", "right"])
        assert (np.asarray(grid) == 10).all(-1).sum() == 4 * shown * shown


def test_labels_must_match_the_grid():
    with pytest.raises(ValueError, match="3 column_labels do not match 2"):
        picture_grid([[plain(0)] * 2], column_labels=["a", "b", "c"])
    with pytest.raises(ValueError, match="no pictures"):
        picture_grid([])


def test_nearest_views_wrap_around_the_circle():
    azimuths = [10.0, 100.0, 190.0, 350.0]
    assert nearest_views(azimuths, [0, 90, 180, 356]) == [0, 1, 2, 3]
    assert nearest_views([359.0, 100.0], [2.0]) == [0]


def test_contact_sheet_shows_eight_views_in_two_rows():
    tiles = [plain(10 * i + 10) for i in range(8)]
    sheet = np.asarray(contact_sheet(tiles, [45.0 * i for i in range(8)]))
    half = sheet.shape[0] // 2
    assert [(sheet[:half] == v).all(-1).any() for v in (10, 40, 50)] == [True, True, False]
    assert [(sheet[half:] == v).all(-1).any() for v in (40, 50, 80)] == [False, True, True]
