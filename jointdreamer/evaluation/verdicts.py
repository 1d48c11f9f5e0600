"""The Janus meter's verdicts on assets, with scores that are computed once."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..janus.detectors import Detector, find_detector
from ..janus.verdict import Verdict, verdict_of
from ..janus.views import views_of
from ..progress import track
from ..runs import CHECKPOINT
from . import TINY_CLIP
from .assets import Asset
from .feature_store import FeatureStore


def choose_detector(choice: str, clip_name: str) -> Detector | None:
    """The meter's detector that `--janus` asks for, or None.

    Args:
        choice: a name that the meter knows; `off`; or `auto`: the tiny world's detector if it is
            here and the CLIP is the tiny world's. It knows creatures only, and of a real asset it
            would say nothing true.

    Raises:
        FileNotFoundError, ValueError: there is no such detector.
    """
    if choice == "off" or (choice == "auto" and clip_name != TINY_CLIP):
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
    shown = assets if render else track(assets, "faces")  # renders have bars of their own
    return [_judge(asset, detector, store, render, device) for asset in shown]


def _judge(
    asset: Asset, detector: Detector, store: FeatureStore, render: bool, device: str | None
) -> Verdict:
    checkpoint = asset.run.folder / CHECKPOINT
    if render and checkpoint.is_file():
        kind, files = "renders", [checkpoint]
    else:
        kind = f"turntable of aspect {asset.frames[0].aspect}"
        files = [frame.path for frame in asset.frames]

    def score() -> Float[Tensor, "2 V"]:
        if kind == "renders":
            views = views_of(asset.run.folder, device=device)
            frames, azimuths = views.frames, views.azimuths_deg
        else:
            pictures = np.stack([frame.picture() for frame in asset.frames])
            frames = torch.from_numpy(pictures).float() / 255
            azimuths = torch.tensor([frame.azimuth_deg for frame in asset.frames])
        return torch.stack([detector(frames).float().cpu(), azimuths.float().cpu()])

    digest = hashlib.sha256(detector.name.encode())
    if isinstance(detector, nn.Module):
        for name, tensor in detector.state_dict().items():
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    scores, azimuths = store.features(f"{digest.hexdigest()} {kind}", files, score)
    try:
        return verdict_of(scores, azimuths, detector.limits, detector.name, detector.calibrated)
    except ValueError as error:
        raise ValueError(
            f"{asset.run.folder}: {error} Test the run again with more data.n_test_views, or use "
            "--janus off."
        ) from error
