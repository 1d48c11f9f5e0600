"""Frames to mp4 and gif files."""

import os

import imageio.v2 as imageio
import numpy as np


def write_video(path: str, frames: list[np.ndarray], fps: int) -> None:
    """Writes frames [H W 3], all of one size, to an .mp4 (H.264, plays everywhere) or .gif file.

    Raises:
        ValueError: if ffmpeg is missing, which imageio-ffmpeg brings.
    """
    if os.path.splitext(path)[1] == ".gif":
        imageio.mimsave(path, frames, duration=1000 / fps, loop=0)  # milliseconds a frame
        return
    try:
        import imageio_ffmpeg  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "mp4 videos need ffmpeg: pip install imageio-ffmpeg, or save as gif."
        ) from error
    # yuv420p stores colour for 2 x 2 pixels at a time and so wants even sizes
    frames = [np.pad(f, [(0, n % 2) for n in f.shape[:2]] + [(0, 0)], "edge") for f in frames]
    imageio.mimsave(path, frames, fps=fps, quality=8, macro_block_size=1)
