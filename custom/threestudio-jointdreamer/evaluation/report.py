"""The report: one HTML file with tables and pictures that opens from disk, without a network."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track

from ..systems.pictures import Tile
from .assets import Asset
from .measure import Evaluation
from .report_page import PAGE
from .rows import AssetRow, MethodRow, write_text
from .smoothness import CURVE

STRIP, TURN = 8, 24  # views side by side; frames of the turning picture
TILE = 96  # pixels
TURN_SECONDS = 4
CURVE_SIZE = (90, 40)  # pixels


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        name: of the row's field; its `_low` and `_high` are shown beside it where there are any.
        digits: after the decimal point; None for what is no number.
    """

    title: str
    name: str
    hint: str = ""
    digits: int | None = None

    @property
    def is_text(self) -> bool:
        return self.digits is None


CLIP_SCORE = Column("CLIP score", "clip_score", "mean of 100 cos(image, prompt); more is better", 2)
R_PRECISION = Column("R-Precision", "r_precision", "% of views that CLIP tells apart by prompt", 1)
ROUGHNESS = Column(
    "roughness", "roughness", "scatter of the logged gradient norm; less is better", 3
)
METHOD_COLUMNS = (
    Column("method", "method"),
    Column("runs", "runs", digits=0),
    CLIP_SCORE,
    R_PRECISION,
    Column("Janus %", "janus_rate", "assets with more than one face", 1),
    Column("faceless %", "faceless_rate", "assets with no face at all, a failure of its own", 1),
    Column("FID", "fid", "distance of all frames from the reference pictures; less is better", 2),
    ROUGHNESS,
)
ASSET_COLUMNS = (
    Column("prompt", "prompt"),
    Column("method", "method"),
    Column("seed", "seed", digits=0),
    CLIP_SCORE,
    R_PRECISION,
    Column("rank", "rank", "place of the own prompt by mean similarity", 0),
    Column("faces", "faces", "separate faces that the Janus meter sees", 0),
    Column("Janus", "janus"),
    ROUGHNESS,
)


def shown(row: AssetRow | MethodRow, column: Column, gap: str = " ") -> str:
    """A cell's text, its interval after `gap`; a dash where nothing was measured."""
    value = getattr(row, column.name)
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if column.digits is None:
        return str(value)
    text = f"{value:.{column.digits}f}"
    low, high = (getattr(row, f"{column.name}_{end}", None) for end in ("low", "high"))
    if low is None or high is None:
        return text
    return f"{text}{gap}[{low:.{column.digits}f}, {high:.{column.digits}f}]"


def write_report(path: Path, result: Evaluation) -> None:
    """Writes the page, whole or not at all.

    Everything is inside the file: the pictures as data, and a policy that forbids the browser to
    load anything else.
    """
    pairs = list(zip(result.assets, result.rows, strict=True))
    bodies = [_asset(asset, row) for asset, row in track(pairs, "report")]
    facts = "".join(f"<dt>{escape(k)}<dd>{escape(v)}" for k, v in result.settings.items())
    methods = [_cells(row, METHOD_COLUMNS) for row in result.methods]
    left_out = "".join(f"<li>{escape(reason)}" for reason in result.skipped)
    page = PAGE.substitute(
        facts=f"<dt>assets<dd>{len(result.rows)}{facts}",
        methods=_table("methods", METHOD_COLUMNS, methods),
        assets=_table("assets", (*ASSET_COLUMNS, *PICTURES), bodies),
        left_out=f"<h2>Left out</h2><ul>{left_out}</ul>" if left_out else "",
    )
    write_text(path, page)


PICTURES = (
    Column(CURVE.rpartition("/")[2].replace("_", " "), "curve", "over the steps, logarithmic"),
    Column("all round", "strip", "azimuths from 0°, the front, in eighths of a turn"),
    Column("turning", "turn"),
)


def _table(name: str, columns: Sequence[Column], bodies: Sequence[str]) -> str:
    heads = "".join(
        f'<th scope="col" data-key="{column.name}" title="{escape(column.hint)}">'
        + (
            escape(column.title)
            if column in PICTURES
            else f"<button>{escape(column.title)}</button>"
        )
        for column in columns
    )
    rows = "".join(f"<tr>{body}" for body in bodies)
    return f'<table id="{name}"><thead><tr>{heads}<tbody>{rows}</table>'


def _cells(row: AssetRow | MethodRow, columns: Sequence[Column]) -> str:
    def cell(column: Column) -> str:
        value = getattr(row, column.name)
        number = isinstance(value, (int, float)) and not column.is_text
        order = f' data-order="{value}"' if number else ""
        marks = {("janus", True): ' class="bad"', ("faces", 0): f' class="bad"{order}'}
        return f"<td{marks.get((column.name, value), order)}>{escape(shown(row, column))}"

    return "".join(map(cell, columns))


def _asset(asset: Asset, row: AssetRow) -> str:
    about = escape(f"{asset.prompt}, {asset.method}")
    tiles = [_small(frame.picture()) for frame in asset.every(STRIP)]
    turn = [_small(frame.picture()) for frame in asset.every(TURN)]
    return (
        _cells(row, ASSET_COLUMNS)
        + f"<td>{_curve(asset)}"
        + f'<td><img loading="lazy" alt="{about}, all round" src="{_sheet(tiles)}">'
        + f'<td><img loading="lazy" alt="{about}, turning" src="{_turning(turn)}">'
    )


def _small(picture: Tile) -> Image.Image:
    image = Image.fromarray(picture)
    width = max(1, round(image.width * TILE / image.height))
    return image if image.height == TILE else image.resize((width, TILE), Image.Resampling.LANCZOS)


def _sheet(tiles: Sequence[Image.Image]) -> str:
    """All tiles in two rows, so that a table with them fits a screen."""
    per_row = -(-len(tiles) // 2)
    first = np.asarray(tiles[0])
    pixels = [np.asarray(tile) for tile in tiles]
    pixels += [np.full_like(first, 255)] * (2 * per_row - len(tiles))
    rows = (pixels[:per_row], pixels[per_row:])
    sheet = Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows]))
    return _data(sheet, "JPEG", quality=88, subsampling=0)


def _turning(tiles: Sequence[Image.Image]) -> str:
    first, *others = tiles
    pace = {"duration": 1000 * TURN_SECONDS // len(tiles), "loop": 0}
    return _data(first, "WEBP", save_all=True, append_images=others, quality=75, **pace)


def _data(image: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def _curve(asset: Asset) -> str:
    """The logged gradient norm as a small drawing; nothing if it was not logged."""
    try:
        series = asset.run.metrics().get(CURVE, [])
    except FileNotFoundError:
        series = []
    points = [(step, math.log(value)) for step, value in series if 0 < value < math.inf]
    if len(points) < 2:
        return "–"
    width, height = CURVE_SIZE
    steps, logs = zip(*points, strict=True)

    def scaled(values: Sequence[float], size: int) -> list[float]:
        reach = max(values) - min(values) or 1
        return [1 + (size - 2) * (value - min(values)) / reach for value in values]

    drawn = zip(scaled(steps, width), scaled(logs, height), strict=True)
    line = " ".join(f"{x:.1f},{height - y:.1f}" for x, y in drawn)
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="gradient norm"><polyline points="{line}"/></svg>'
    )
