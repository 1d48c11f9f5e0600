"""Chooses a detector's limits on assets whose faces are known, and counts a meter's errors."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from .verdict import Limits, find_faces, kind_of, smooth_profile

CHOICES = {
    "face": (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6),
    "minor": (0.4, 0.5, 0.6, 0.7, 0.8),
    "valley": (0.65, 0.75, 0.85),
    "smoothing_deg": (8.0, 10.0, 12.0),
    "widest_deg": (120.0, 135.0, 150.0, 165.0, 180.0),
}
_EDGE = 0.8  # of `face`


@dataclass(frozen=True)
class ScoredAsset:
    """An asset that a detector has scored, and its true number of faces."""

    scores: Float[Tensor, " V"]
    azimuths_deg: Float[Tensor, " V"]
    n_faces: int

    @property
    def kind(self) -> str:
        """As `kind_of` says it of faces that were found."""
        return ("faceless", "one face", "Janus")[min(self.n_faces, 2)]


def choose_limits(assets: Sequence[ScoredAsset]) -> Limits:
    """The limits with the fewest wrong kinds, then wrong counts; of equals, the middle one.

    Equally good choices form a region; the middle of each limit's good values, taken one after the
    other, lies well inside it, so that an asset near the edge is judged right as well.
    """
    errors = {}
    for face, minor, valley, smoothing_deg in itertools.product(*list(CHOICES.values())[:4]):
        limits = Limits(face, minor, round(_EDGE * face, 3), valley, smoothing_deg)
        profiles = (smooth_profile(a.scores, a.azimuths_deg, smoothing_deg) for a in assets)
        found = [[extent for _, extent in find_faces(profile, limits)] for profile in profiles]
        pairs = list(zip(assets, found, strict=True))
        wrong_counts = sum(len(extents) != asset.n_faces for asset, extents in pairs)
        for widest_deg in CHOICES["widest_deg"]:
            limits = replace(limits, widest_deg=widest_deg)
            wrong_kinds = sum(kind_of(extents, limits) != asset.kind for asset, extents in pairs)
            errors[limits] = (wrong_kinds, wrong_counts)
    least = min(errors.values())
    best = [limits for limits, error in errors.items() if error == least]
    for name in CHOICES:
        values = sorted(getattr(limits, name) for limits in best)
        middle = values[len(values) // 2]
        best = [limits for limits in best if getattr(limits, name) == middle]
    return best[0]
