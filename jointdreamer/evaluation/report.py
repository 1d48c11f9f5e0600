"""The report: one HTML file with tables and pictures that opens from disk, without a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from rich.progress import track

from .assets import Asset
from .measure import Evaluation
from .report_page import PAGE
from .report_pictures import Look, curve, strip, turning
from .rows import AssetRow, MethodRow, write_text
from .side_by_side import comparable, contact_sheets, curves_of_methods
from .smoothness import CURVE

BESIDE = Look(tile=64, strip=4, turn=16)  # of assets that stand side by side


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


@dataclass(frozen=True)
class Table:
    """A table of its own at the head of the report; cells are texts."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def write_report(
    path: Path,
    result: Evaluation,
    title: str = "Evaluation",
    tables: Sequence[Table] = (),
    look: Look | None = None,
) -> None:
    """Writes the page, whole or not at all.

    Everything is inside the file: the pictures as data, and a policy that forbids the browser to
    load anything else. Where methods share prompts, their assets are shown side by side, and the
    list of assets is one of numbers.

    Args:
        look: how much of each asset is shown; by default less where assets are side by side.
    """
    pairs = list(zip(result.assets, result.rows, strict=True))
    beside = comparable(result.assets)
    look = look or (BESIDE if beside else Look())
    sheets = curves = ""
    if beside:
        sheets = f"<h2>Side by side</h2>{contact_sheets(pairs, look)}"
        curves = f"<h2>Curves</h2>{_CURVES}{curves_of_methods(result.assets)}"
    pictures = PICTURES[:1] if beside else PICTURES
    bodies = [_asset(*pair, pictures, look) for pair in track(pairs, "report")]
    facts = "".join(f"<dt>{escape(k)}<dd>{escape(v)}" for k, v in result.settings.items())
    methods = [_cells(row, METHOD_COLUMNS) for row in result.methods]
    left_out = "".join(f"<li>{escape(reason)}" for reason in result.skipped)
    page = PAGE.substitute(
        title=escape(title),
        facts=f"<dt>assets<dd>{len(result.rows)}{facts}",
        tables="".join(map(_own_table, tables)),
        methods=_table("methods", METHOD_COLUMNS, methods),
        curves=curves,
        sheets=sheets,
        assets=_table("assets", (*ASSET_COLUMNS, *pictures), bodies),
        left_out=f"<h2>Left out</h2><ul>{left_out}</ul>" if left_out else "",
    )
    write_text(path, page)


_CURVES = "<p>Medians over each method's assets.</p>"
PICTURES = (
    Column(CURVE.rpartition("/")[2].replace("_", " "), "curve", "over the steps, logarithmic"),
    Column("all round", "strip", "azimuths from 0°, the front, in eighths of a turn"),
    Column("turning", "turn"),
)


def _own_table(table: Table) -> str:
    heads = "".join(f'<th scope="col">{escape(title)}' for title in table.columns)
    rows = ("".join(f"<td>{escape(cell)}" for cell in row) for row in table.rows)
    body = "".join(f"<tr>{row}" for row in rows)
    note = f"<p>{escape(table.note)}</p>" if table.note else ""
    return f"<h2>{escape(table.title)}</h2><table><thead><tr>{heads}<tbody>{body}</table>{note}"


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


def _asset(asset: Asset, row: AssetRow, pictures: Sequence[Column], look: Look) -> str:
    about = escape(f"{asset.prompt}, {asset.method}")
    cells: dict[str, Any] = {
        "curve": lambda: curve(asset),
        "strip": lambda: _image(f"{about}, all round", strip(asset, look)),
        "turn": lambda: _image(f"{about}, turning", turning(asset, look)),
    }
    shown_cells = "".join(f"<td>{cells[column.name]()}" for column in pictures)
    return _cells(row, ASSET_COLUMNS) + shown_cells


def _image(about: str, source: str) -> str:
    return f'<img loading="lazy" alt="{about}" src="{source}">'
