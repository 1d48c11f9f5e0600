"""A film's cameras along a path of the user's own, from a JSON file of keyframes."""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from threestudio.data.uncond import RandomCameraDataset
from torch import Tensor

from ..config_values import parse_block, parse_value
from .cameras import Cameras, camera_batch, orbit

KEYFRAME = {  # degrees; `fov` is the vertical one
    "azimuth": float,
    "elevation": Annotated[float, "(-90, 90)"],
    "distance": Annotated[float, "(0, inf)"],
    "fov": Annotated[float, "(0, 180)"],
}


def read_keyframes(path: str, key: str) -> list[dict[str, float]]:
    """The keyframes in a file; what one leaves out is as on the turntable.

    Raises:
        ValueError: it is not a list of two keyframes or more; names the file.
    """
    try:
        found = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        if len(found) < 2:
            raise ValueError("it holds less")
    except (OSError, ValueError, TypeError) as error:
        text = f"{key}={path!r} must be a JSON file of two keyframes or more: {error}."
        raise ValueError(text) from error
    frames = enumerate(parse_value(found, list[dict], path))
    return [parse_block(frame, KEYFRAME, "a keyframe", f"{path}[{i}]") for i, frame in frames]


class CameraPathDataset(RandomCameraDataset):
    """`n_test_views` cameras that look at the origin; keyframes are as long apart.

    Between them cameras move by monotone cubics (Fritsch and Carlson 1980), which swing beyond no
    keyframe.
    """

    name, fps = "path", 30  # of the film

    def __init__(self, cfg: Any, split: str) -> None:
        from scipy.interpolate import PchipInterpolator

        super().__init__(cfg, split)
        still = (0.0, cfg.eval_elevation_deg, cfg.eval_camera_distance, cfg.eval_fovy_deg)
        turntable = dict(zip(KEYFRAME, still, strict=True))
        frames = read_keyframes(cfg.test_camera_path, "data.test_camera_path")
        rows = [list((turntable | frame).values()) for frame in frames]
        moving = PchipInterpolator(np.linspace(0, 1, len(rows)), rows)
        self.places = torch.from_numpy(moving(np.linspace(0, 1, cfg.n_test_views))).float()

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One camera of `camera_batch`, and its `index`."""
        azimuth, elevation, distance, fov = self.places[index].split(1)
        at, up = orbit(elevation, azimuth, distance), torch.tensor([[0.0, 0.0, 1.0]])
        cameras = Cameras(at, 0 * at, up, at, fov.deg2rad(), elevation, azimuth, distance)
        size = (self.cfg.eval_height, self.cfg.eval_width)
        batch = camera_batch(cameras, *size, self.cfg.rays_d_normalize)
        one = {key: x[0] if isinstance(x, Tensor) else x for key, x in batch.items()}
        return {"index": index, **one}
