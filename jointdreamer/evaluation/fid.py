"""FID: how far the distribution of rendered pictures is from that of reference pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from threestudio_jointdreamer.systems.picture_grid import Tile
from threestudio_jointdreamer.weights.files import sha256_of
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from ..open_clip_models import first_line
from ..runs import PICTURES
from .clip_models import BATCH, Clip

# TensorFlow's Inception of 2015 as torch-fidelity publishes it, and how the file's hash begins.
INCEPTION, INCEPTION_SHA256 = "weights-inception-2015-12-05-6726825d.pth", "6726825d"
CHOICES = ("auto", "clip", "inception")


@dataclass(frozen=True)
class FeatureExtractor:
    """Pictures to features; `name` is shown, `identity` differs where the numbers differ."""

    name: str
    identity: str
    features: Callable[[Sequence[Tile]], Float[Tensor, "N D"]]


def frechet_distance(real: Float[Tensor, "N D"], fake: Float[Tensor, "M D"]) -> float:
    """||mu_r - mu_f||^2 + tr(S_r + S_f - 2 (S_r S_f)^(1/2)) of two sets of features.

    Heusel et al. 2017, arXiv 1706.08500; computed by torchmetrics in float64. With fewer pictures
    than features the covariances are singular and the estimate is too large: compare only numbers
    of as many pictures against the same references.

    Raises:
        ValueError: fewer than two pictures on a side.
    """
    if min(len(real), len(fake)) < 2:
        raise ValueError(
            f"FID needs two pictures or more on both sides; there are {len(real)} references and "
            f"{len(fake)} renders."
        )
    given = nn.Identity()  # the features are computed already
    given.num_features = real.shape[1]
    metric = FrechetInceptionDistance(feature=given)
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    return max(0.0, metric.compute().item())  # -1e-9 of rounding where the two are equal


def find_extractor(choice: str, clip: Clip, device: torch.device) -> FeatureExtractor:
    """The extractor that `--fid-features` asks for.

    Args:
        choice: `clip`; `inception`, which looks for its weights in PyTorch's hub cache, or
            `inception:FILE`; or `auto`: Inception if its package and weights are here, else CLIP.

    Raises:
        ValueError: an unknown choice, or Inception is asked for and not here.
    """
    kind, _, file = choice.partition(":")
    if kind not in CHOICES or (file and kind != "inception"):
        raise ValueError(
            f"--fid-features {choice!r} is unknown: use auto, clip, inception or inception:FILE."
        )
    weights = Path(file) if file else Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION
    missing = None if kind == "clip" else _why_no_inception(weights)
    if kind == "clip" or (kind == "auto" and missing):
        return FeatureExtractor(f"clip {clip.name}", clip.identity, clip.images)
    if missing:
        raise ValueError(f"--fid-features inception: {missing}")
    return inception_extractor(weights, device)


def inception_extractor(weights: Path, device: torch.device) -> FeatureExtractor:
    """The 2048 features of the published FID, through torchmetrics and torch-fidelity."""
    metric = FrechetInceptionDistance(2048, feature_extractor_weights_path=str(weights)).to(device)

    @torch.no_grad()
    def features(pictures: Sequence[Tile]) -> Float[Tensor, "N 2048"]:
        shapes = {picture.shape for picture in pictures}
        size = BATCH if len(shapes) == 1 else 1  # Inception resizes for itself
        found = []
        for start in range(0, len(pictures), size):
            pixels = torch.from_numpy(np.stack(pictures[start : start + size]))
            found.append(metric.inception(pixels.permute(0, 3, 1, 2).to(device)).float().cpu())
        return torch.cat(found)

    return FeatureExtractor("inception-v3 2048", "inception-v3 2048", features)


def _why_no_inception(weights: Path) -> str | None:
    """What Inception lacks. Its weights are a pickle, so only the published file is opened."""
    if not weights.is_file():
        return (
            f"{weights} does not exist. Download {INCEPTION} from the releases of "
            "toshas/torch-fidelity, or use --fid-features clip."
        )
    if not sha256_of(weights).startswith(INCEPTION_SHA256):
        return f"{weights} is not the published {INCEPTION}. Download it again."
    try:
        import torch_fidelity  # noqa: F401
    except Exception as error:  # a torchvision of another torch raises RuntimeError
        return (
            f"torch-fidelity does not import ({first_line(error)}). Install the extra `fid`; its "
            "torchvision must be the build that belongs to the installed torch."
        )
    return None


def reference_pictures(folder: Path) -> list[Path]:
    """The pictures in a folder and below it, in order.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it holds fewer than two pictures.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"--fid-reference {folder} is no folder. Give a folder of pictures."
        )
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
    if len(found) < 2:
        raise ValueError(
            f"--fid-reference {folder} holds {len(found)} pictures ({', '.join(PICTURES)}); FID "
            "needs two or more, and hundreds for a number worth comparing."
        )
    return found
