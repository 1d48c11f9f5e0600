"""The table of results: a row for each asset, a row for each method, and their CSV files."""

import csv
import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from .intervals import mean_interval, rate_interval


@dataclass(frozen=True)
class AssetRow:
    """What was measured of one asset; None where there was nothing to measure.

    Args:
        views: how many frames CLIP looked at.
        clip_score, r_precision: see `clip_score.py` and `r_precision.py`; 100 is the most.
        rank: place of the asset's own prompt among `candidates`, by mean similarity.
        roughness: see `smoothness.py`.
        faces, face_extents_deg, janus, faceless: the Janus meter's verdict from `face_views` views.
    """

    run: str
    method: str
    seed: int | None
    prompt: str
    step: int
    views: int
    clip: str
    clip_score: float
    r_precision: float | None
    rank: int | None
    candidates: int | None
    roughness: float | None
    faces: int | None
    face_views: int | None
    face_extents_deg: str | None
    janus: bool | None
    faceless: bool | None


@dataclass(frozen=True)
class MethodRow:
    """Means and rates over a method's assets, `_low` and `_high` of their 95 % intervals.

    Args:
        retrieved: percentage of assets whose own prompt has rank 1.
        roughness: the median.
        janus_rate, faceless_rate: percentages of the `judged` assets.
        fid: of all their frames together against the references.
    """

    method: str
    runs: int
    prompts: int
    clip_score: float
    clip_score_low: float | None
    clip_score_high: float | None
    r_precision: float | None
    r_precision_low: float | None
    r_precision_high: float | None
    retrieved: float | None
    roughness: float | None
    judged: int
    janus_rate: float | None
    janus_rate_low: float | None
    janus_rate_high: float | None
    faceless_rate: float | None
    faceless_rate_low: float | None
    faceless_rate_high: float | None
    fid: float | None
    fid_features: str | None
    fid_renders: int | None
    fid_references: int | None


@dataclass(frozen=True)
class Fid:
    """A method's FID, what it looked at, and how many pictures there were on each side."""

    fid: float
    fid_features: str
    fid_renders: int
    fid_references: int


def by_method(rows: Sequence[AssetRow], fids: Mapping[str, Fid]) -> list[MethodRow]:
    """A row for each method, in order of appearance."""
    methods: dict[str, list[AssetRow]] = {}
    for row in rows:
        methods.setdefault(row.method, []).append(row)
    return [_method_row(name, found, fids.get(name)) for name, found in methods.items()]


def _method_row(method: str, rows: list[AssetRow], fid: Fid | None) -> MethodRow:
    rough = [row.roughness for row in rows if row.roughness is not None]
    ranks = [row.rank for row in rows if row.rank is not None]
    return MethodRow(
        method=method,
        runs=len(rows),
        prompts=len({row.prompt for row in rows}),
        **_mean(rows, "clip_score"),
        **_mean(rows, "r_precision"),
        retrieved=100 * fmean(rank == 1 for rank in ranks) if ranks else None,
        roughness=median(rough) if rough else None,
        judged=sum(row.janus is not None for row in rows),
        **_rate(rows, "janus"),
        **_rate(rows, "faceless"),
        **(asdict(fid) if fid else dict.fromkeys(Fid.__dataclass_fields__)),
    )


def _mean(rows: list[AssetRow], name: str) -> dict[str, float | None]:
    found = [(getattr(row, name), row.prompt) for row in rows if getattr(row, name) is not None]
    if not found:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    values, prompts = zip(*found, strict=True)
    low, high = mean_interval(values, prompts) or (None, None)
    return {name: fmean(values), f"{name}_low": low, f"{name}_high": high}


def _rate(rows: list[AssetRow], name: str) -> dict[str, float | None]:
    found = [getattr(row, name) for row in rows if getattr(row, name) is not None]
    keys = (f"{name}_rate", f"{name}_rate_low", f"{name}_rate_high")
    if not found:
        return dict.fromkeys(keys)
    numbers = (fmean(found), *rate_interval(sum(found), len(found)))
    return dict(zip(keys, (100 * number for number in numbers), strict=True))


def write_table(path: Path, rows: Sequence[AssetRow] | Sequence[MethodRow]) -> None:
    """Rows as CSV, whole or not at all: empty where there is no value, 1 and 0 for yes and no."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(asdict(rows[0]))
    writer.writerows([_cell(value) for value in asdict(row).values()] for row in rows)
    write_text(path, text.getvalue())


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return round(value, 4) if isinstance(value, float) else value


def write_text(path: Path, text: str) -> None:
    """Writes a text file under a temporary name and moves it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as workplace:
        temporary = Path(workplace) / path.name
        temporary.write_text(text, encoding="utf-8", newline="")
        os.replace(temporary, path)
