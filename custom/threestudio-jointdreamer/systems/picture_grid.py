"""Grids of labelled pictures: validation views, what the guidance sees, contact sheets."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..files import replacing

Tile = UInt8[np.ndarray, "H W 3"]

PAPER = (245, 245, 243)
INK = (70, 70, 68)
GAP = 6
FONT_SIZE = 13


def to_tile(image: Float[Tensor, "H W C"]) -> Tile:
    """Values in [0, 1] to 8 bits; a single channel becomes grey, NaN becomes black."""
    image = image.detach().float().nan_to_num().clamp(0, 1).mul(255).round()
    return image.expand(*image.shape[:2], 3).to("cpu", torch.uint8).numpy()


def picture_grid(
    rows: Sequence[Sequence[Tile]],
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    tile_size: int | None = None,
) -> Image.Image:
    """Pictures in rows and columns on neutral paper.

    Args:
        rows: pictures, top to bottom and left to right; rows may differ in length.
        row_labels: one for each row, written at its left.
        column_labels: one for each column, written above it.
        tile_size: height in pixels that every picture is resized to; by default its own height,
            but at least 96 so that labels fit.

    Raises:
        ValueError: no pictures, or labels that do not match them in number.
    """
    rows = [list(row) for row in rows]
    columns = max(map(len, rows), default=0)
    if not columns:
        raise ValueError("There are no pictures to put in a grid.")
    for name, labels, count in (
        ("row_labels", row_labels, len(rows)),
        ("column_labels", column_labels, columns),
    ):
        if labels is not None and len(labels) != count:
            raise ValueError(f"{len(labels)} {name} do not match {count} in the grid.")

    height = tile_size or max(96, max(tile.shape[0] for row in rows for tile in row))
    images = [[_resized(tile, height) for tile in row] for row in rows]
    width = max(image.width for row in images for image in row)
    font = ImageFont.load_default(FONT_SIZE)
    left = GAP + (max(map(font.getlength, row_labels)) + GAP if row_labels else 0)
    top = GAP + (FONT_SIZE + GAP if column_labels else 0)
    sheet = Image.new(
        "RGB", (round(left) + columns * (width + GAP), top + len(rows) * (height + GAP)), PAPER
    )
    draw = ImageDraw.Draw(sheet)
    for r, row in enumerate(images):
        for c, image in enumerate(row):
            sheet.paste(image, (round(left) + c * (width + GAP), top + r * (height + GAP)))
    for c, label in enumerate(column_labels or ()):
        middle = left + c * (width + GAP) + width / 2
        draw.text((middle, GAP), label, INK, font, anchor="mt")
    for r, label in enumerate(row_labels or ()):
        middle = top + r * (height + GAP) + height / 2
        draw.text((left - GAP, middle), label, INK, font, anchor="rm")
    return sheet


def _resized(tile: Tile, height: int) -> Image.Image:
    image = Image.fromarray(tile)
    if image.height == height:
        return image
    width = max(1, round(image.width * height / image.height))
    return image.resize((width, height), Image.Resampling.LANCZOS)


def save_picture(path: str | Path, image: Image.Image) -> str:
    """Writes `image`; the file appears complete or not at all. Returns the path."""
    with replacing(path) as new:
        image.save(new)
    return str(path)
