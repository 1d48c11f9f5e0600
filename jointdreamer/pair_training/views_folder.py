"""A folder in the layout of Zero-1-to-3's views_release, as groups of views of its objects."""

import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

LISTED = "valid_paths.json"  # the objects' names, as views_release has it
TRIES = 10  # unreadable objects in a row that are skipped


class ViewsFolder(Dataset):
    """Objects of which `<object>/000.png` and `<object>/000.npy`, 001... are views.

    A .npy holds [R | t], 3x4, that moves the world into the camera. The camera looks along its -z
    with y up (Blender's axes, and threestudio's), and z is up in the world. The objects are those
    that `valid_paths.json` lists, else all folders.

    In training each item has `n_view` random views, half of them before a plain colour; a held-out
    object has always the same views, before white.

    Args:
        held_out: serve the objects kept from training. A hash of an object's name decides, so that
            an object stays on its side when others join.
        held_out_share: the share of objects that is kept from training.
        limit: serve this many objects at most.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds too few objects of this side.
    """

    def __init__(
        self,
        root: Path,
        held_out: bool,
        held_out_share: float,
        n_view: int,
        image_size: int,
        limit: int | None = None,
    ) -> None:
        self.root, self.held_out = root, held_out
        self.n_view, self.image_size = n_view, image_size
        names = _objects(root)
        side = [name for name in names if (_share(name) < held_out_share) == held_out]
        self.names = side[:limit]
        if len(self.names) < 2:
            raise ValueError(
                f"{root} has {len(names)} objects, {len(side)} of them "
                f"{'kept from' if held_out else 'for'} training with --held-out {held_out_share}: "
                "two of each side are needed. Give more objects, or another share."
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """images [V 3 H W] (uint8) and c2w [V 4 4]; an unreadable object's successor instead.

        Raises:
            ValueError: ten objects in a row are unreadable.
        """
        for name in (self.names[(index + skip) % len(self.names)] for skip in range(TRIES)):
            try:
                return self._read(name)
            except (OSError, ValueError) as error:
                last = error
                warnings.warn(f"{self.root / name} is left out: {error}", stacklevel=2)
        raise ValueError(
            f"{TRIES} objects in a row in {self.root} cannot be read, the last because {last} "
            "Expected <object>/000.png with <object>/000.npy (3x4 world-to-camera), 001..."
        ) from last

    def _read(self, name: str) -> dict[str, Tensor]:
        folder = self.root / name
        numbers = sorted(p.stem for p in folder.glob("*.png") if p.with_suffix(".npy").exists())
        if len(numbers) < self.n_view:
            raise ValueError(f"it has {len(numbers)} views with poses, {self.n_view} are needed.")
        generator = torch.Generator().manual_seed(0) if self.held_out else None
        chosen = torch.randperm(len(numbers), generator=generator)[: self.n_view].tolist()
        paths = [folder / f"{numbers[i]}.png" for i in chosen]
        return {
            "images": torch.stack([self._image(path) for path in paths]),
            "c2w": torch.stack([read_camera(path.with_suffix(".npy")) for path in paths]),
        }

    def _image(self, path: Path) -> UInt8[Tensor, "3 H W"]:
        color = [255] * 3
        if not self.held_out and torch.rand(()) < 0.5:
            color = torch.randint(256, (3,)).tolist()
        with Image.open(path) as file:
            picture = file.convert("RGBA")
        behind = Image.new("RGBA", picture.size, (*color, 255))
        picture = Image.alpha_composite(behind, picture).convert("RGB")
        size = (self.image_size, self.image_size)
        pixels = np.array(picture.resize(size, Image.Resampling.BICUBIC))
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def read_camera(path: Path) -> Float[Tensor, "4 4"]:
    """The camera-to-world matrix of a 3x4 world-to-camera file.

    Raises:
        ValueError: the file holds no rotation and translation.
    """
    try:
        matrix = np.load(path, allow_pickle=False)
    except (EOFError, ValueError) as error:
        raise ValueError(f"{path.name} is no NumPy array ({error}).") from error
    if matrix.shape not in ((3, 4), (4, 4)) or matrix.dtype.kind != "f":
        raise ValueError(f"{path.name} holds {matrix.dtype} of shape {matrix.shape}, not a 3x4 RT.")
    pose = torch.from_numpy(matrix[:3].astype(np.float64))
    rotation, translation = pose[:, :3], pose[:, 3:]
    error = (rotation @ rotation.T - torch.eye(3)).abs().max()
    if not (error < 1e-3 and torch.linalg.det(rotation) > 0 and pose.isfinite().all()):
        raise ValueError(f"{path.name} holds no rotation in its first three columns.")
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3] = torch.cat([rotation.T, -rotation.T @ translation], dim=1)
    return c2w.float()


def _objects(root: Path) -> list[str]:
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {root}: --data takes tinyworld, or a folder.")
    listed = root / LISTED
    if not listed.exists():
        return sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    try:
        names = json.loads(listed.read_text())
    except ValueError as error:
        raise ValueError(f"{listed} is no JSON list of objects: {error}.") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{listed} is no JSON list of objects' names.")
    return sorted(names)


def _share(name: str) -> float:
    """A number in [0, 1) that belongs to an object's name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48
