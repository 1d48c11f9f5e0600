"""What is written of an evaluation: CSV tables, a page of HTML, and the methods on the terminal."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, FileSystemLoader
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from threestudio_jointdreamer.files import replacing

from ..csv_table import write_csv
from ..progress import track
from .assets import Asset
from .curves import draw_methods
from .measure import Evaluation
from .rows import AssetRow, MethodRow
from .smoothness import CURVE
from .thumbnails import all_round, data_uri, turning

TEMPLATE = "report.html.j2"
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


CLIP_SCORE = Column("CLIP score", "clip_score", "mean of 100 cos(image, prompt); more is better", 2)
R_PRECISION = Column("R-Precision", "r_precision", "% of views that CLIP tells apart by prompt", 1)
_HINT = "scatter of the logged gradient norm; less is better"
ROUGHNESS = Column("roughness", "roughness", _HINT, 3)
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


@dataclass(frozen=True)
class ReportTable:
    """A table of its own at the head of the report; cells are texts."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Entry:
    """What the page shows of an asset: its numbers, a curve's points, pictures as data URIs."""

    row: AssetRow
    polyline: str
    strip: str
    turning: str

    @property
    def verdict(self) -> str:
        """What the Janus meter says of it."""
        if self.row.janus is None:
            return ""
        if self.row.faces == 1:
            return "1 face drawn out" if self.row.janus else "1 face"
        return f"{self.row.faces} faces" if self.row.faces else "no face"

    @property
    def is_failure(self) -> bool:
        return bool(self.row.janus or self.row.faceless)


def write_tables(out: Path, result: Evaluation) -> list[Path]:
    """A row for each asset and a row for each method, as CSV: 1 and 0 for yes and no."""

    def cell(value: Any) -> Any:
        if isinstance(value, bool):
            return int(value)
        return round(value, 4) if isinstance(value, float) else value

    paths = [out / "assets.csv", out / "methods.csv"]
    for path, rows in zip(paths, (result.rows, result.methods), strict=True):
        write_csv(path, [{k: cell(value) for k, value in asdict(row).items()} for row in rows])
    return paths


def write_report(
    path: Path, result: Evaluation, title: str = "Evaluation", tables: Sequence[ReportTable] = ()
) -> None:
    """Writes the page, whole or not at all.

    Everything is inside the file: the pictures as data, and a policy that forbids the browser to
    load anything else. Where methods share prompts, their assets are shown side by side, and the
    list of assets is one of numbers.
    """
    prompts = {row.prompt for row in result.rows}
    compared = len({(row.prompt, row.method) for row in result.rows}) > len(prompts)
    height, n_views, n_frames = (64, 4, 16) if compared else (96, 8, 24)
    entries = []
    for asset, row in track(list(zip(result.assets, result.rows, strict=True)), "report"):
        pictures = all_round(asset, height, n_views), turning(asset, height, n_frames)
        entries.append(Entry(row, polyline(log_curve(asset)), *pictures))
    curves = method_curves(result.assets) if compared else {}
    loader = FileSystemLoader(Path(__file__).parent)
    template = Environment(loader=loader, autoescape=True, trim_blocks=True).get_template(TEMPLATE)
    page = template.render(
        title=title,
        result=result,
        tables=tables,
        method_columns=METHOD_COLUMNS,
        asset_columns=ASSET_COLUMNS,
        shown=shown,
        curves=curves,
        curves_source=data_uri(draw_methods(curves).encode(), "image/svg+xml") if curves else "",
        sheets=contact_sheets(entries) if compared else {},
        entries=entries,
    )
    with replacing(path) as new:
        new.write_text(page, encoding="utf-8")


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


def contact_sheets(entries: Sequence[Entry]) -> dict[str, dict[str, list[Entry | None]]]:
    """For each seed and prompt the methods' assets, in the order of the methods' table."""
    found = {(e.row.seed, e.row.prompt, e.row.method): e for e in entries}
    seeds, prompts, methods = (dict.fromkeys(values) for values in zip(*found, strict=True))
    return {
        "all" if seed is None else f"seed {seed}": {
            prompt: [found.get((seed, prompt, method)) for method in methods] for prompt in prompts
        }
        for seed in sorted(seeds, key=lambda seed: (seed is None, seed))
    }


def method_curves(assets: Sequence[Asset]) -> Mapping[str, Sequence[tuple[float, float]]]:
    """Each method's logged gradient norm, the median over its assets, where it was logged."""
    curves: dict[str, dict[float, list[float]]] = {}
    for asset in assets:
        for step, value in log_curve(asset):
            curves.setdefault(asset.method, {}).setdefault(step, []).append(value)
    return {
        method: [(step, math.exp(median(logs))) for step, logs in sorted(values.items())]
        for method, values in curves.items()
        if len(values) > 1
    }


def log_curve(asset: Asset) -> list[tuple[float, float]]:
    """Step and logarithm of the logged gradient norm; empty if it was not logged."""
    return [(step, math.log(value)) for step, value in asset.curve(CURVE) if 0 < value < math.inf]


def polyline(points: Sequence[tuple[float, float]]) -> str:
    """The points of an SVG polyline that fills `CURVE_SIZE`; empty if there are fewer than two."""
    if len(points) < 2:
        return ""
    axes = []
    for values, size in zip(zip(*points, strict=True), CURVE_SIZE, strict=True):
        reach = max(values) - min(values) or 1
        axes.append([1 + (size - 2) * (value - min(values)) / reach for value in values])
    return " ".join(f"{x:.1f},{CURVE_SIZE[1] - y:.1f}" for x, y in zip(*axes, strict=True))


def print_methods(result: Evaluation) -> None:
    """The methods' table on the terminal."""
    caption = "; ".join(f"{key}: {value}" for key, value in result.settings.items())
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption)
    for column in METHOD_COLUMNS:
        table.add_column(
            column.title,
            justify="left" if column.digits is None else "right",
            min_width=max(map(len, column.title.split())),
        )
    for row in result.methods:
        table.add_row(*(shown(row, column, gap="\n") for column in METHOD_COLUMNS))
    console = Console()
    console.print(table, markup=False)
    for reason in result.skipped:
        console.print(f"left out: {reason}", markup=False, highlight=False)
