"""FID: how far the distribution of rendered pictures is from that of reference pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from threestudio_jointdreamer.systems.picture_grid import Tile
from threestudio_jointdreamer.weights.files import sha256_of
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from .clip_models import Clip

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# TensorFlow's Inception of 2015 as torch-fidelity publishes it; the name holds the file's hash.
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
CHOICES = ("auto", "clip", "inception")
BATCH = 32


class Extractor(Protocol):
    """Pictures to features; `name` is shown, `identity` differs where the numbers differ."""

    name: str
    identity: str

    def __call__(self, pictures: Sequence[Tile]) -> Float[Tensor, "N D"]: ...


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
    metric = FrechetInceptionDistance(feature=_Given(real.shape[1]))
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    return max(0.0, metric.compute().item())  # -1e-9 of rounding where the two are equal


class _Given(nn.Module):
    """Hands on features that were computed before."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


class ClipFeatures:
    """CLIP's image embeddings: what FID looks at where there is no Inception."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self.name, self.identity = f"clip {clip.name}", clip.identity

    def __call__(self, pictures: Sequence[Tile]) -> Float[Tensor, "N D"]:
        return self._clip.images(pictures)


class InceptionFeatures:
    """The 2048 features of the published FID, through torchmetrics and torch-fidelity."""

    def __init__(self, weights: Path, device: torch.device) -> None:
        problem = _why_no_inception(weights)
        if problem:
            raise ValueError(f"--fid-features inception: {problem}")
        self._metric = FrechetInceptionDistance(
            2048, feature_extractor_weights_path=str(weights)
        ).to(device)
        self._device = device
        self.name = self.identity = "inception-v3 2048"

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Tile]) -> Float[Tensor, "N D"]:
        shapes = {picture.shape for picture in pictures}
        size = BATCH if len(shapes) == 1 else 1  # Inception resizes for itself
        features = []
        for start in range(0, len(pictures), size):
            batch = np.stack(pictures[start : start + size]).transpose(0, 3, 1, 2)
            pixels = torch.from_numpy(np.ascontiguousarray(batch)).to(self._device)
            features.append(self._metric.inception(pixels).float().cpu())
        return torch.cat(features)


def find_extractor(choice: str, clip: Clip, device: torch.device) -> Extractor:
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
    if kind == "clip" or (kind == "auto" and _why_no_inception(weights)):
        return ClipFeatures(clip)
    return InceptionFeatures(weights, device)


def _why_no_inception(weights: Path) -> str | None:
    """What Inception lacks. Its weights are a pickle, so only the published file is opened."""
    if not weights.is_file():
        return (
            f"{weights} does not exist. Download {INCEPTION} from the releases of "
            "toshas/torch-fidelity, or use --fid-features clip."
        )
    if not sha256_of(weights).startswith(_published_hash()):
        return f"{weights} is not the published {INCEPTION}. Download it again."
    try:
        _import_torch_fidelity()
    except Exception as error:  # a torchvision of another torch raises RuntimeError
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return (
            f"torch-fidelity does not import ({reason}). Install the extra `fid`; its torchvision "
            "must be the build that belongs to the installed torch."
        )
    return None


def _published_hash() -> str:
    return INCEPTION.rpartition("-")[2].removesuffix(".pth")


def _import_torch_fidelity() -> Any:
    import torch_fidelity

    return torch_fidelity


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
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(found) < 2:
        raise ValueError(
            f"--fid-reference {folder} holds {len(found)} pictures ({', '.join(SUFFIXES)}); FID "
            "needs two or more, and hundreds for a number worth comparing."
        )
    return found


def read_picture(path: Path) -> Tile:
    """A picture as 8-bit rgb.

    Raises:
        ValueError: it does not open.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise ValueError(f"{path} is no readable picture. Remove it, or copy it again.") from error
