"""Cameras around one object: the config of random ones, and the turntables of evaluation.

Random training cameras are drawn by the extension's data module, which extends this config.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from threestudio.utils.ops import (
    get_mvp_matrix,
    get_projection_matrix,
    get_ray_directions,
    get_rays,
)

NEAR, FAR = 0.01, 100.0  # clip planes of mvp_mtx


@dataclass
class RandomCameraDataModuleConfig:
    """Angles in degrees, sizes in pixels. Lists are for `resolution_milestones`, one entry more."""

    height: Any = 64  # int or list of int
    width: Any = 64
    batch_size: Any = 1
    resolution_milestones: list[int] = field(default_factory=list)  # steps
    eval_height: int = 512
    eval_width: int = 512
    eval_batch_size: int = 1
    n_val_views: int = 1
    n_test_views: int = 120
    elevation_range: tuple[float, float] = (-10, 90)
    azimuth_range: tuple[float, float] = (-180, 180)
    camera_distance_range: tuple[float, float] = (1, 1.5)
    fovy_range: tuple[float, float] = (40, 70)
    camera_perturb: float = 0.1  # half width of a uniform distribution
    center_perturb: float = 0.2  # standard deviation
    up_perturb: float = 0.02  # standard deviation
    light_position_perturb: float = 1.0  # standard deviation
    light_distance_range: tuple[float, float] = (0.8, 1.5)
    eval_elevation_deg: float = 15.0
    eval_camera_distance: float = 1.5
    eval_fovy_deg: float = 70.0
    light_sample_strategy: str = "dreamfusion"  # or magic3d
    batch_uniform_azimuth: bool = True  # azimuths of a batch cover the whole range
    progressive_until: int = 0  # the angular ranges open up until this step

    rays_d_normalize: bool = True


class RandomCameraDataset(Dataset):
    """A turn around the object at one elevation.

    Split "val" has `n_val_views` cameras, all different; any other has `n_test_views`, the last of
    which is the first again, so that a video closes.
    """

    def __init__(self, cfg: Any, split: str) -> None:
        super().__init__()
        self.cfg: RandomCameraDataModuleConfig = cfg
        self.split = split
        if split == "val":
            self.n_views = cfg.n_val_views
            self.azimuth_deg = torch.linspace(0, 360.0, self.n_views + 1)[: self.n_views]
        else:
            self.n_views = cfg.n_test_views
            self.azimuth_deg = torch.linspace(0, 360.0, self.n_views)
        self.elevation_deg = torch.full_like(self.azimuth_deg, cfg.eval_elevation_deg)
        self.camera_distances = torch.full_like(self.azimuth_deg, cfg.eval_camera_distance)
        self.elevation, self.azimuth = _radians(self.elevation_deg), _radians(self.azimuth_deg)
        self.fovy = _radians(torch.full_like(self.azimuth_deg, cfg.eval_fovy_deg))
        across = self.camera_distances * torch.cos(self.elevation)
        x, y = across * torch.cos(self.azimuth), across * torch.sin(self.azimuth)
        z = self.camera_distances * torch.sin(self.elevation)
        self.camera_positions = self.light_positions = torch.stack([x, y, z], dim=-1)
        self.c2w = _look_at_origin(self.camera_positions)
        self.proj_mtx = get_projection_matrix(
            self.fovy, cfg.eval_width / cfg.eval_height, NEAR, FAR
        )
        self.mvp_mtx = get_mvp_matrix(self.c2w, self.proj_mtx)
        focal = 0.5 * cfg.eval_height / torch.tan(0.5 * self.fovy[0])  # the same for all
        self._directions = get_ray_directions(H=cfg.eval_height, W=cfg.eval_width, focal=1.0)
        self._directions[..., :2] /= focal

    def __len__(self) -> int:
        return self.n_views

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One camera: `rays_o`, `rays_d` [H W 3], 4 x 4 matrices, positions [3] and numbers."""
        rays_o, rays_d = get_rays(
            self._directions,
            self.c2w[index : index + 1],
            keepdim=True,
            normalize=self.cfg.rays_d_normalize,
        )
        return {
            "index": index,
            "rays_o": rays_o[0],
            "rays_d": rays_d[0],
            "mvp_mtx": self.mvp_mtx[index],
            "proj_mtx": self.proj_mtx[index],
            "c2w": self.c2w[index],
            "camera_positions": self.camera_positions[index],
            "light_positions": self.light_positions[index],
            "elevation": self.elevation_deg[index],
            "azimuth": self.azimuth_deg[index],
            "camera_distances": self.camera_distances[index],
            "fovy": self.fovy[index],
            "height": self.cfg.eval_height,
            "width": self.cfg.eval_width,
        }

    def collate(self, batch: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            **default_collate(batch),
            "height": self.cfg.eval_height,
            "width": self.cfg.eval_width,
        }


def _radians(degrees: Tensor) -> Tensor:
    return degrees * math.pi / 180  # in this order, as threestudio: the last bit counts


def _look_at_origin(positions: Float[Tensor, "B 3"]) -> Float[Tensor, "B 4 4"]:
    """Camera-to-world matrices of cameras that look along -z at the origin (OpenGL), z up."""
    up = torch.tensor([0.0, 0.0, 1.0]).expand_as(positions)
    ahead = F.normalize(-positions, dim=-1)
    right = F.normalize(torch.linalg.cross(ahead, up), dim=-1)
    above = F.normalize(torch.linalg.cross(right, ahead), dim=-1)
    c2w = torch.zeros(positions.shape[0], 4, 4)
    c2w[:, :3] = torch.stack([right, above, -ahead, positions], dim=-1)
    c2w[:, 3, 3] = 1.0
    return c2w
