"""Turntables of finished runs, and how alike two of them are."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SAME = 99.0  # dB, of frames without any difference


def read_turntable(save_dir: Path) -> list[np.ndarray]:
    """The frames of the newest `it*-test` folder, in order, as [H, H, 3] in 0..255.

    Square frames are the leftmost picture of each file; others, such as normals, are left out.

    Raises:
        FileNotFoundError: there is none.
    """
    folders = [path for path in save_dir.glob("it*-test") if path.is_dir()]
    if not folders:
        raise FileNotFoundError(f"{save_dir} has no turntable (it*-test): run --test first.")
    newest = max(folders, key=lambda path: int(path.name[2 : -len("-test")]))
    files = sorted(newest.glob("*.png"), key=lambda path: int(path.stem))
    frames = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    return [frame[:, : frame.shape[0]] for frame in frames]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two 8-bit pictures; SAME if they are equal."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return SAME if error == 0 else min(SAME, 10 * math.log10(255.0**2 / error))


def compare_turntables(
    ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]
) -> tuple[float, float]:
    """PSNR of all frames together, and of the frame that is least alike.

    Raises:
        ValueError: they have different numbers of frames.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} frames cannot be compared with {len(theirs)}.")
    each = [psnr(a, b) for a, b in zip(ours, theirs, strict=True)]
    return psnr(np.stack(list(ours)), np.stack(list(theirs))), min(each)
