"""A small folder in the layout of Zero-1-to-3's views_release: one-coloured discs from a ring."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jointdreamer.testing.cameras import camera_ring


def world_to_camera(c2w: Tensor) -> np.ndarray:
    """The 3x4 matrix that views_release has for a camera."""
    return torch.linalg.inv(c2w.double())[:3].numpy()


def write_object(
    folder: Path, color: tuple[int, int, int], n_view: int = 5, size: int = 24
) -> None:
    """A disc of `color` before a transparent background, with a dark spot that goes round it."""
    folder.mkdir(parents=True)
    y, x = np.mgrid[:size, :size] / (size - 1) * 2 - 1
    disc = x**2 + y**2 < 0.7
    for view, c2w in enumerate(camera_ring(1, n_view)["c2w"]):
        angle = 2 * np.pi * view / n_view
        spot = (x - 0.5 * np.cos(angle)) ** 2 + (y - 0.5 * np.sin(angle)) ** 2 < 0.06
        picture = np.zeros((size, size, 4), np.uint8)
        picture[disc] = (*color, 255)
        picture[spot] = (10, 10, 10, 255)
        Image.fromarray(picture).save(folder / f"{view:03d}.png")
        np.save(folder / f"{view:03d}.npy", world_to_camera(c2w))


def write_views_release(root: Path, n_object: int, seed: int = 0) -> Path:
    """`n_object` objects of bright colours drawn by lot."""
    colors = np.random.default_rng(seed).integers(60, 256, (n_object, 3))
    for index, color in enumerate(colors.tolist()):
        write_object(root / f"object-{index:03d}", tuple(color))
    return root
