"""The Janus meter's verdicts on assets, with scores that are computed once."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from rich.progress import track
from torch import Tensor, nn

from ..janus import Limits, Verdict, judge
from ..janus.detector import Detector, find_detector
from ..janus.views import views_of
from .assets import Asset
from .clip_models import TINY
from .feature_store import FeatureStore

CHECKPOINT = Path("ckpts/last.ckpt")


def choose_detector(choice: str, clip_name: str) -> Detector | None:
    """The meter's detector that `--janus` asks for, or None.

    Args:
        choice: a name that the meter knows; `off`; or `auto`: the tiny world's detector if it is
            here and the CLIP is the tiny world's. It knows creatures only, and of a real asset it
            would say nothing true.

    Raises:
        FileNotFoundError, ValueError: there is no such detector.
    """
    if choice == "off" or (choice == "auto" and clip_name != TINY):
        return None
    try:
        return find_detector("tiny" if choice == "auto" else choice)
    except FileNotFoundError:
        if choice == "auto":
            return None
        raise


def judge_assets(
    assets: Sequence[Asset],
    detector: Detector,
    store: FeatureStore,
    render: bool = False,
    device: str | None = None,
) -> list[Verdict]:
    """A verdict on each asset.

    Args:
        store: keeps the detector's scores between calls.
        render: look at renders of the checkpoint at several elevations, for which the meter is
            calibrated, and not at the frames of the turntable; a run without one shows these.
        device: where to render.

    Raises:
        ValueError: a turntable has too few frames to say.
    """
    if not render:
        return [_judge_turntable(asset, detector, store) for asset in track(assets, "faces")]
    verdicts = []
    for number, asset in enumerate(assets, start=1):
        if (asset.run.folder / CHECKPOINT).is_file():
            progress = f"faces of asset {number} of {len(assets)}"
            verdicts.append(_judge_renders(asset, detector, store, device, progress))
        else:
            verdicts.append(_judge_turntable(asset, detector, store))
    return verdicts


def described(detector: Detector | None) -> str:
    """The detector as reports name it."""
    if detector is None:
        return "none"
    return detector.name if detector.calibrated else f"{detector.name}, uncalibrated"


def _judge_turntable(asset: Asset, detector: Detector, store: FeatureStore) -> Verdict:
    def look() -> tuple[Tensor, Tensor]:
        pictures = np.stack([frame.picture() for frame in asset.frames])
        azimuths = torch.tensor([frame.azimuth_deg for frame in asset.frames])
        return torch.from_numpy(pictures).float() / 255, azimuths

    kind = f"turntable of aspect {asset.frames[0].aspect}"
    return _judge(asset, detector, store, kind, [frame.path for frame in asset.frames], look)


def _judge_renders(
    asset: Asset, detector: Detector, store: FeatureStore, device: str | None, progress: str
) -> Verdict:
    def look() -> tuple[Tensor, Tensor]:
        print(progress)  # beside the meter's own bar, of which there can be one at a time
        views = views_of(asset.run.folder, device=device)
        return views.frames, views.azimuths_deg

    return _judge(asset, detector, store, "renders", [asset.run.folder / CHECKPOINT], look)


def _judge(
    asset: Asset,
    detector: Detector,
    store: FeatureStore,
    kind: str,
    files: Sequence[Path],
    look: Callable[[], tuple[Tensor, Tensor]],
) -> Verdict:
    def scored() -> Float[Tensor, "2 V"]:
        frames, azimuths = look()
        return torch.stack([detector(frames).float().cpu(), azimuths.float().cpu()])

    scores, azimuths = store.features(f"{_identity(detector)} {kind}", files, scored)
    seen = _Seen(scores, detector.name, detector.calibrated, detector.limits)
    try:
        return judge(torch.zeros(len(scores), 1, 1, 3), azimuths, detector=seen)
    except ValueError as error:
        raise ValueError(
            f"{asset.run.folder}: {error} Test the run again with more data.n_test_views, or use "
            "--janus off."
        ) from error


@dataclass(frozen=True)
class _Seen:
    """A detector whose scores are known."""

    scores: Tensor
    name: str
    calibrated: bool
    limits: Limits

    def __call__(self, frames: Tensor) -> Tensor:
        return self.scores


def _identity(detector: Detector) -> str:
    digest = hashlib.sha256(detector.name.encode())
    if isinstance(detector, nn.Module):
        for name, tensor in detector.state_dict().items():
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()
