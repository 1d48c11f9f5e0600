"""From scores of views all round an asset to its faces: how many, where, and how wide."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

GRID_DEG = 3.0  # the profile's spacing
MOST_APART_DEG = 60.0  # a wider gap between views could hide a face


@dataclass(frozen=True)
class Limits:
    """From which score on there is a face. Shipped with a detector, that they are calibrated for.

    `minor` is there because all of an asset is rendered equally well or badly: what is far less of
    a face than the best one is an accident.
    """

    face: float = 0.5  # the least score of the profile's summit
    minor: float = 0.6  # another face's least share of the highest summit
    edge: float = 0.4  # a face extends to where the profile falls below this score
    valley: float = 0.75  # two faces if it falls below this share of the lower summit between them
    smoothing_deg: float = 10.0  # standard deviation of the Gaussian that smooths the profile
    widest_deg: float = 150.0  # a face of a greater extent is drawn out round the asset: Janus


@dataclass(frozen=True)
class Verdict:
    """What a look all round an asset found."""

    faces_deg: list[float]  # the azimuths that the faces look at
    extents_deg: list[float]  # the angular width of each, from which it is seen
    scores: Float[Tensor, " V"]  # the detector's, one for each frame
    profile: Float[Tensor, " G"]  # the smoothed score at 0, GRID_DEG, 2 GRID_DEG, ... degrees
    limits: Limits
    detector: str  # its name
    calibrated: bool  # whether its limits were measured on assets of this kind

    @property
    def n_faces(self) -> int:
        return len(self.faces_deg)

    @property
    def faceless(self) -> bool:
        return not self.faces_deg

    @property
    def kind(self) -> str:
        return kind_of(self.extents_deg, self.limits)

    @property
    def janus(self) -> bool:
        """Several faces, or one that is drawn out round the asset."""
        return self.kind == "Janus"

    def in_words(self) -> str:
        """One line for people."""
        if self.faceless:
            return "no face"
        both = zip(self.faces_deg, self.extents_deg, strict=True)
        where = ", ".join(f"{azimuth:.0f}° ({extent:.0f}° wide)" for azimuth, extent in both)
        faces = "1 face" if self.n_faces == 1 else f"{self.n_faces} faces"
        return f"{faces} at {where}: {'Janus' if self.janus else 'no Janus'}"


def verdict_of(
    scores: Float[Tensor, " V"],
    azimuths_deg: Float[Tensor, " V"],
    limits: Limits,
    detector: str = "tiny",
    calibrated: bool = True,
) -> Verdict:
    """The verdict on views that a detector has scored.

    Raises:
        ValueError: the views leave a part of the circle unseen.
    """
    scores, azimuths_deg = scores.float().cpu(), azimuths_deg.float().cpu()
    around = torch.sort(azimuths_deg % 360.0).values
    gaps = torch.diff(around, append=around[:1] + 360.0)
    if not len(scores) or gaps.max() > MOST_APART_DEG:
        raise ValueError(
            "The Janus meter needs views from all round the asset, at most "
            f"{MOST_APART_DEG:.0f} degrees apart: a face could hide in the gap."
        )
    profile = smooth_profile(scores, azimuths_deg, limits.smoothing_deg)
    faces = find_faces(profile, limits)
    azimuths, extents = [azimuth for azimuth, _ in faces], [extent for _, extent in faces]
    return Verdict(azimuths, extents, scores, profile, limits, detector, calibrated)


def kind_of(extents_deg: list[float], limits: Limits) -> str:
    """What faces of these extents make of an asset: `faceless`, `one face` or `Janus`."""
    if not extents_deg:
        return "faceless"
    single = len(extents_deg) == 1 and extents_deg[0] <= limits.widest_deg
    return "one face" if single else "Janus"


def smooth_profile(
    scores: Float[Tensor, " V"], azimuths_deg: Float[Tensor, " V"], smoothing_deg: float
) -> Float[Tensor, " G"]:
    """The score as a function of the azimuth: a Gaussian-weighted mean of the views near by."""
    grid = torch.arange(0, 360, GRID_DEG)
    apart = (grid[:, None] - azimuths_deg + 180.0) % 360.0 - 180.0
    # Far from every view the nearest ones decide; the shift keeps the exponentials from vanishing.
    weight = torch.softmax(-0.5 * (apart / smoothing_deg) ** 2, dim=1)
    return weight @ scores


def find_faces(profile: Float[Tensor, " G"], limits: Limits) -> list[tuple[float, float]]:
    """Azimuth and extent in degrees of every face, in the order of azimuths.

    A face is a summit of the profile that reaches `limits.face`, and `limits.minor` of the highest
    one. Between two faces must lie a valley, or they are one. A face extends on either side down to
    `limits.edge`, at most to the valley.
    """
    size = len(profile)
    if profile.min() >= max(limits.edge, limits.valley * profile.max()):  # a face all round
        return [(float(profile.argmax()) * GRID_DEG, 360.0)] if profile.max() >= limits.face else []
    start = int(profile.argmin())
    heights = profile.roll(-start).tolist()  # cut the circle open where there is least of a face
    faces = []
    for left, right in _regions(heights, limits):
        top = max(range(left, right), key=heights.__getitem__)
        if heights[top] < max(limits.face, limits.minor * max(heights)):
            continue
        edge = min(limits.edge, heights[top])
        first, last = top, top
        while first > left and heights[first - 1] >= edge:
            first -= 1
        while last < right - 1 and heights[last + 1] >= edge:
            last += 1
        middle = (start + (first + last) / 2) % size
        faces.append((middle * GRID_DEG, (last - first + 1) * GRID_DEG))
    return sorted(faces)


def _regions(heights: list[float], limits: Limits) -> list[tuple[int, int]]:
    """Cuts the opened circle at its valleys: half-open ranges with one summit each."""
    regions, left, top, low, low_at = [], 0, 0.0, float("inf"), 0
    for index, height in enumerate(heights):
        if height < low:
            low, low_at = height, index
        if height > top and low >= limits.valley * top:
            top, low, low_at = height, height, index  # still climbing the same summit
        elif low < limits.valley * min(top, height):  # a valley lies behind, a new summit begins
            regions.append((left, low_at))
            left, top, low, low_at = low_at, height, height, index
    return [*regions, (left, len(heights))]
