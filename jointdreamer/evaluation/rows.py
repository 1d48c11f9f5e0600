"""The results: a row for each asset, and a row for each method out of its assets' rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
        fid: of all their frames together against the references, where there are any.
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
    fid: float | None = None
    fid_features: str | None = None
    fid_renders: int | None = None
    fid_references: int | None = None


def by_method(rows: Sequence[AssetRow], fids: Mapping[str, Mapping[str, Any]]) -> list[MethodRow]:
    """A row for each method, in order of appearance.

    Args:
        fids: the fields of `MethodRow` that begin with fid, by method.
    """
    methods: dict[str, list[AssetRow]] = {}
    for row in rows:
        methods.setdefault(row.method, []).append(row)
    return [_method_row(name, found, fids.get(name, {})) for name, found in methods.items()]


def _method_row(method: str, rows: list[AssetRow], fid: Mapping[str, Any]) -> MethodRow:
    rough, ranks = _known(rows, "roughness"), _known(rows, "rank")
    return MethodRow(
        method=method,
        runs=len(rows),
        prompts=len({row.prompt for row in rows}),
        **_mean(rows, "clip_score"),
        **_mean(rows, "r_precision"),
        retrieved=100 * fmean(rank == 1 for rank in ranks) if ranks else None,
        roughness=median(rough) if rough else None,
        judged=len(_known(rows, "janus")),
        **_rate(rows, "janus"),
        **_rate(rows, "faceless"),
        **fid,
    )


def _known(rows: Sequence[AssetRow], name: str) -> list[Any]:
    return [value for row in rows if (value := getattr(row, name)) is not None]


def _mean(rows: Sequence[AssetRow], name: str) -> dict[str, float | None]:
    values = _known(rows, name)
    prompts = [row.prompt for row in rows if getattr(row, name) is not None]
    low, high = mean_interval(values, prompts) or (None, None)
    return {name: fmean(values) if values else None, f"{name}_low": low, f"{name}_high": high}


def _rate(rows: Sequence[AssetRow], name: str) -> dict[str, float | None]:
    """In per cent."""
    keys, found = (f"{name}_rate", f"{name}_rate_low", f"{name}_rate_high"), _known(rows, name)
    if not found:
        return dict.fromkeys(keys)
    numbers = (fmean(found), *rate_interval(sum(found), len(found)))
    return dict(zip(keys, (100 * number for number in numbers), strict=True))
