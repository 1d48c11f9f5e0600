"""What a report shows of an asset: views side by side, a turning picture, a curve; all as text."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .assets import Asset
from .smoothness import CURVE

TURN_SECONDS = 4
CURVE_SIZE = (90, 40)  # pixels


@dataclass(frozen=True)
class Look:
    """How much of each asset is shown.

    Args:
        tile: height of a view in pixels.
        strip: views side by side.
        turn: frames of the turning picture.
    """

    tile: int = 96
    strip: int = 8
    turn: int = 24


def strip(asset: Asset, look: Look) -> str:
    """Views from all round in two rows, so that a table with them fits a screen."""
    tiles = _tiles(asset, look.strip, look)
    per_row = -(-len(tiles) // 2)
    pixels = [np.asarray(tile) for tile in tiles]
    pixels += [np.full_like(pixels[0], 255)] * (2 * per_row - len(tiles))
    rows = (pixels[:per_row], pixels[per_row:])
    sheet = Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows]))
    return _data(sheet, "JPEG", quality=88, subsampling=0)


def turning(asset: Asset, look: Look) -> str:
    """A short film of the asset turning once, again and again."""
    first, *others = _tiles(asset, look.turn, look)
    pace = {"duration": 1000 * TURN_SECONDS // (1 + len(others)), "loop": 0}
    return _data(first, "WEBP", save_all=True, append_images=others, quality=75, **pace)


def _tiles(asset: Asset, count: int, look: Look) -> list[Image.Image]:
    tiles = []
    for frame in asset.every(count):
        image = Image.fromarray(frame.picture())
        width = max(1, round(image.width * look.tile / image.height))
        if image.height != look.tile:
            image = image.resize((width, look.tile), Image.Resampling.LANCZOS)
        tiles.append(image)
    return tiles


def _data(image: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def curve(asset: Asset) -> str:
    """The logged gradient norm as a small drawing; a dash if it was not logged."""
    points = log_curve(asset)
    if len(points) < 2:
        return "–"
    width, height = CURVE_SIZE
    line = _polyline(points, CURVE_SIZE)
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="gradient norm"><polyline points="{line}"/></svg>'
    )


def log_curve(asset: Asset) -> list[tuple[float, float]]:
    """Step and logarithm of the logged gradient norm; empty if it was not logged."""
    try:
        series = asset.run.metrics().get(CURVE, [])
    except FileNotFoundError:
        series = []
    return [(step, math.log(value)) for step, value in series if 0 < value < math.inf]


def _polyline(points: Sequence[tuple[float, float]], size: tuple[int, int]) -> str:
    """The `points` of an SVG polyline that fills `size`."""
    xs, ys = zip(*points, strict=True)
    width, height = size

    def scaled(value: float, values: Sequence[float], size: int) -> float:
        reach = max(values) - min(values) or 1
        return 1 + (size - 2) * (value - min(values)) / reach

    return " ".join(
        f"{scaled(x, xs, width):.1f},{height - scaled(y, ys, height):.1f}" for x, y in points
    )
