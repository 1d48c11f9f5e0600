"""The meter as a whole: a detector's scores of an asset's frames, and the verdict on them."""

from jaxtyping import Float
from torch import Tensor

from .detectors import Detector, find_detector
from .verdict import Verdict, verdict_of


def judge(
    frames: Float[Tensor, "V H W 3"],
    azimuths_deg: Float[Tensor, " V"],
    detector: str | Detector = "tiny",
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
    if frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) != len(azimuths_deg):
        raise ValueError(
            f"judge got frames of shape {tuple(frames.shape)} and {len(azimuths_deg)} azimuths. "
            "Give frames [V H W 3] and one azimuth for each."
        )
    if isinstance(detector, str):
        detector = find_detector(detector)
    scores = detector(frames)
    return verdict_of(scores, azimuths_deg, detector.limits, detector.name, detector.calibrated)
