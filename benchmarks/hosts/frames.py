"""Turntables of finished runs, and how alike two of them are."""

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


def compare_turntables(
    ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]
) -> tuple[float, float]:
    """PSNR in dB of all frames together, and of the frame that is least alike; SAME at most.

    Raises:
        ValueError: they have different numbers of frames.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} frames cannot be compared with {len(theirs)}.")
    differences = np.stack(list(ours)).astype(np.float64) - np.stack(list(theirs))
    errors = np.maximum((differences**2).mean(axis=(1, 2, 3)), 255**2 * 10 ** (-SAME / 10))
    together = 10 * np.log10(255**2 / errors.mean())
    return float(together), float(10 * np.log10(255**2 / errors.max()))
