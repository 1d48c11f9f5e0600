"""Frames to mp4 and gif files."""

import errno
import os

import imageio.v2 as imageio
import numpy as np


def write_video(path: str, frames: list[np.ndarray], fps: int) -> None:
    """Writes frames [H W 3], all of one size, to an .mp4 (H.264, plays everywhere) or .gif file.

    Raises:
        ValueError: if ffmpeg is missing, which imageio-ffmpeg brings.
        OSError: if ffmpeg ended before it had written all.
    """
    if os.path.splitext(path)[1] == ".gif":
        imageio.mimsave(path, frames, duration=1000 / fps, loop=0)  # milliseconds a frame
        return
    try:
        from imageio_ffmpeg import count_frames_and_secs
    except ImportError as error:
        raise ValueError(
            "mp4 videos need ffmpeg: pip install imageio-ffmpeg, or save as gif."
        ) from error
    # yuv420p stores colour for 2 x 2 pixels at a time and so wants even sizes
    frames = [np.pad(f, [(0, n % 2) for n in f.shape[:2]] + [(0, 0)], "edge") for f in frames]
    try:  # imageio does not ask how ffmpeg ended
        imageio.mimsave(path, frames, fps=fps, quality=8, macro_block_size=1)
        written, _ = count_frames_and_secs(path)
    except (OSError, RuntimeError):
        written = 0
    if written != len(frames):
        reason = "ffmpeg stopped, as it says above; if the disk is full, free some and do it again"
        raise OSError(errno.EIO, reason)
