"""Chooses a detector's limits on assets whose faces are known, and counts a meter's errors."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from .verdict import Limits, Verdict, find_faces, is_janus, smooth_profile

CHOICES = {
    "face": (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6),
    "minor": (0.4, 0.5, 0.6, 0.7, 0.8),
    "valley": (0.65, 0.75, 0.85),
    "smoothing_deg": (8.0, 10.0, 12.0),
    "widest_deg": (120.0, 135.0, 150.0, 165.0, 180.0),
}
_EDGE = 0.8  # of `face`


@dataclass(frozen=True)
class Known:
    """An asset that a detector has scored, and its true number of faces."""

    scores: Float[Tensor, " V"]
    azimuths_deg: Float[Tensor, " V"]
    n_faces: int


def kind(n_faces: int) -> str:
    """What a verdict says, in one word."""
    return "faceless" if n_faces == 0 else "one face" if n_faces == 1 else "Janus"


def kind_of(verdict: Verdict) -> str:
    return "faceless" if verdict.faceless else "Janus" if verdict.janus else "one face"


def choose_limits(assets: Sequence[Known]) -> Limits:
    """The limits with the fewest wrong kinds, then wrong counts; of equals, the middle one.

    Equally good choices form a region; the middle of each limit's good values, taken one after the
    other, lies well inside it, so that an asset near the edge is judged right as well.
    """
    errors = {}
    for face, minor, valley, smoothing_deg in itertools.product(*list(CHOICES.values())[:4]):
        limits = Limits(face, minor, round(_EDGE * face, 3), valley, smoothing_deg)
        profiles = (smooth_profile(a.scores, a.azimuths_deg, smoothing_deg) for a in assets)
        found = [find_faces(profile, limits) for profile in profiles]
        for widest_deg in CHOICES["widest_deg"]:
            limits = replace(limits, widest_deg=widest_deg)
            errors[limits] = _errors(assets, found, limits)
    least = min(errors.values())
    best = [limits for limits, error in errors.items() if error == least]
    for name in CHOICES:
        values = sorted(getattr(limits, name) for limits in best)
        middle = values[len(values) // 2]
        best = [limits for limits in best if getattr(limits, name) == middle]
    return best[0]


def _errors(
    assets: Sequence[Known], found: list[list[tuple[float, float]]], limits: Limits
) -> tuple[int, int]:
    """How many kinds are wrong, and how many numbers of faces."""
    kinds = counts = 0
    for asset, faces in zip(assets, found, strict=True):
        said = "Janus" if is_janus(faces, limits) else kind(len(faces))
        kinds += said != kind(asset.n_faces)
        counts += len(faces) != asset.n_faces
    return kinds, counts
