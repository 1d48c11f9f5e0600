"""From scores of views all round an asset to its faces: how many, where, and how wide."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from .detector import Detector

GRID_DEG = 3.0  # the profile's spacing
MOST_APART_DEG = 60.0  # a wider gap between views could hide a face


@dataclass(frozen=True)
class Limits:
    """From which score on there is a face. Shipped with a detector, that they are calibrated for.

    Attributes:
        face: the least score of the profile's summit.
        minor: another face's least share of the highest summit. All of an asset is rendered equally
            well or badly, so what is far less of a face than the best one is an accident.
        edge: a face extends to where the profile falls below this score.
        valley: two summits are two faces if the profile between them falls below this share of the
            lower one.
        smoothing_deg: standard deviation of the Gaussian that smooths the profile.
        widest_deg: a face of a greater extent is no single face, but one drawn out round the asset,
            and Janus.
    """

    face: float = 0.5
    minor: float = 0.6
    edge: float = 0.4
    valley: float = 0.75
    smoothing_deg: float = 10.0
    widest_deg: float = 150.0


@dataclass(frozen=True)
class Verdict:
    """What a look all round an asset found.

    Attributes:
        n_faces: separate faces.
        extents_deg: the angular width of each, from which it is seen.
        janus: several faces, or one that is drawn out round the asset.
        faceless: none.
        scores: the detector's, one for each frame.
        faces_deg: the azimuths that the faces look at.
        profile: the smoothed score at 0, `GRID_DEG`, 2 `GRID_DEG`, ... degrees.
        detector: its name.
        calibrated: whether the detector's limits were measured on assets of this kind.
        limits: that were applied.
    """

    n_faces: int
    extents_deg: list[float]
    janus: bool
    faceless: bool
    scores: Float[Tensor, " V"]
    faces_deg: list[float]
    profile: Float[Tensor, " G"]
    detector: str = "tiny"
    calibrated: bool = True
    limits: Limits = field(default_factory=Limits)

    def in_words(self) -> str:
        """One line for people."""
        if self.faceless:
            return "no face"
        where = ", ".join(
            f"{azimuth:.0f}° ({extent:.0f}° wide)"
            for azimuth, extent in zip(self.faces_deg, self.extents_deg, strict=True)
        )
        faces = "1 face" if self.n_faces == 1 else f"{self.n_faces} faces"
        return f"{faces} at {where}: {'Janus' if self.janus else 'no Janus'}"


def judge(
    frames: Float[Tensor, "V H W 3"],
    azimuths_deg: Float[Tensor, " V"],
    detector: "str | Detector" = "tiny",
) -> Verdict:
    """Counts the faces of an asset.

    Args:
        frames: renders from all round, colours in [0, 1]; frames of one azimuth at several
            elevations are averaged.
        azimuths_deg: where each frame's camera stands; 0 is the front, any multiple of 360 may be
            added.
        detector: `tiny`, `open_clip:MODEL/PRETRAINED`, or an object as `Detector` describes.

    Raises:
        ValueError: frames and azimuths do not match, or leave a part of the circle unseen.

    Example:
        >>> verdict = judge(torch.rand(24, 64, 64, 3), torch.arange(24) * 15.0)
        >>> verdict.n_faces, verdict.janus
    """
    from .detector import find_detector

    _check(frames, azimuths_deg)
    detector = find_detector(detector)
    scores = detector(frames).float().cpu()
    return verdict_of(scores, azimuths_deg, detector.limits, detector.name, detector.calibrated)


def verdict_of(
    scores: Float[Tensor, " V"],
    azimuths_deg: Float[Tensor, " V"],
    limits: Limits,
    detector: str = "tiny",
    calibrated: bool = True,
) -> Verdict:
    """The verdict on views that a detector has scored."""
    profile = smooth_profile(scores, azimuths_deg.float().cpu(), limits.smoothing_deg)
    faces = find_faces(profile, limits)
    extents = [extent for _, extent in faces]
    return Verdict(
        n_faces=len(faces),
        extents_deg=extents,
        janus=is_janus(faces, limits),
        faceless=not faces,
        scores=scores,
        faces_deg=[azimuth for azimuth, _ in faces],
        profile=profile,
        detector=detector,
        calibrated=calibrated,
        limits=limits,
    )


def is_janus(faces: list[tuple[float, float]], limits: Limits) -> bool:
    """Whether these (azimuth, extent) are more than one ordinary face."""
    return len(faces) > 1 or any(extent > limits.widest_deg for _, extent in faces)


def _check(frames: Tensor, azimuths_deg: Tensor) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) != len(azimuths_deg):
        raise ValueError(
            f"judge got frames of shape {tuple(frames.shape)} and {len(azimuths_deg)} azimuths. "
            "Give frames [V H W 3] and one azimuth for each."
        )
    around = torch.sort(azimuths_deg.float() % 360.0).values
    gaps = torch.diff(around, append=around[:1] + 360.0)
    if not len(frames) or gaps.max() > MOST_APART_DEG:
        raise ValueError(
            "judge needs views from all round the asset, at most "
            f"{MOST_APART_DEG:.0f} degrees apart: a face could hide in the gap."
        )


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
    if profile.min() >= limits.edge and not _valleys(profile, limits):
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


def _valleys(profile: Tensor, limits: Limits) -> bool:
    return bool(profile.min() < limits.valley * profile.max())


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
