"""Random cameras around one object for training, a turntable for validation and test."""

import bisect
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from omegaconf import ListConfig
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

import threestudio
from threestudio.data.cameras import LIGHTS, camera_batch, look_at, spherical_to_cartesian
from threestudio.utils.base import Updateable
from threestudio.utils.config import parse_structured
from threestudio.utils.ops import get_ray_directions


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


class RandomCameraIterableDataset(IterableDataset, Updateable):
    """An endless stream of batches, drawn from the global random state in `collate`.

    The sizes of the next batch are `batch_size`, `height` and `width`, which `update_step` sets.

    Raises:
        ValueError: for lists that do not fit `resolution_milestones`, or an unknown
            `light_sample_strategy`.
    """

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.cfg: RandomCameraDataModuleConfig = cfg
        if cfg.light_sample_strategy not in LIGHTS:
            raise ValueError(
                f"data.light_sample_strategy={cfg.light_sample_strategy!r} is unknown: use "
                f"{' or '.join(LIGHTS)}."
            )
        self.heights, self.widths, self.batch_sizes = _stages(cfg)
        self.resolution_milestones = [-1]
        if len(self.heights) > 1:
            self.resolution_milestones += list(cfg.resolution_milestones)
        elif cfg.resolution_milestones:
            threestudio.warn(
                "data.resolution_milestones has no effect: height, width and batch_size are "
                "single numbers."
            )
        self.directions_unit_focals = [
            get_ray_directions(H=height, W=width, focal=1.0)
            for height, width in zip(self.heights, self.widths, strict=True)
        ]
        self._set_stage(0)
        self.elevation_range = self.cfg.elevation_range
        self.azimuth_range = self.cfg.azimuth_range
        self.camera_distance_range = self.cfg.camera_distance_range
        self.fovy_range = self.cfg.fovy_range

    def _set_stage(self, index: int) -> None:
        self.height: int = self.heights[index]
        self.width: int = self.widths[index]
        self.batch_size: int = self.batch_sizes[index]
        self.directions_unit_focal = self.directions_unit_focals[index]

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        self._set_stage(bisect.bisect_right(self.resolution_milestones, global_step) - 1)
        self.progressive_view(global_step)

    def progressive_view(self, global_step: int) -> None:
        """Opens the angular ranges linearly, from the elevation of validation and azimuth 0."""
        r = min(1.0, global_step / (self.cfg.progressive_until + 1))
        self.elevation_range = [
            (1 - r) * self.cfg.eval_elevation_deg + r * x for x in self.cfg.elevation_range
        ]
        self.azimuth_range = [r * x for x in self.cfg.azimuth_range]

    def __iter__(self) -> Iterator[dict]:
        while True:
            yield {}

    def collate(self, batch: Any) -> dict[str, Any]:
        """Draws a batch of cameras: see `camera_batch` for most of its keys.

        The order of the draws is threestudio's, so that one seed gives the same cameras there.
        """
        size = self.batch_size
        elevation, elevation_deg = self._sample_elevation()
        strata = torch.rand(size)
        if self.cfg.batch_uniform_azimuth:
            strata = (strata + torch.arange(size)) / size
        azimuth_deg = _spread(strata, self.azimuth_range)
        camera_distances = _spread(torch.rand(size), self.camera_distance_range)
        positions = spherical_to_cartesian(elevation, _radians(azimuth_deg), camera_distances)
        perturb = self.cfg.camera_perturb
        positions = positions + (torch.rand(size, 3) * 2 * perturb - perturb)
        center = torch.randn(size, 3) * self.cfg.center_perturb
        up = torch.tensor([0.0, 0.0, 1.0]) + torch.randn(size, 3) * self.cfg.up_perturb
        fovy = _radians(_spread(torch.rand(size), self.fovy_range))
        light_distances = _spread(torch.rand(size), self.cfg.light_distance_range)
        sample_light = LIGHTS[self.cfg.light_sample_strategy]
        return {
            **camera_batch(
                look_at(positions, center, up),
                fovy,
                self.directions_unit_focal,
                self.cfg.rays_d_normalize,
            ),
            "light_positions": sample_light(positions, light_distances, self.cfg),
            "elevation": elevation_deg,
            "azimuth": azimuth_deg,
            "camera_distances": camera_distances,
            "height": self.height,
            "width": self.width,
        }

    def _sample_elevation(self) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
        """Elevations in radians and degrees: half of the batches uniform in angle, half in area."""
        if random.random() < 0.5:
            elevation_deg = _spread(torch.rand(self.batch_size), self.elevation_range)
            return _radians(elevation_deg), elevation_deg
        heights = [math.sin(x / 180.0 * math.pi) for x in self.elevation_range]
        elevation = torch.asin(_spread(torch.rand(self.batch_size), heights))
        return elevation, elevation / math.pi * 180.0


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
        positions = spherical_to_cartesian(self.elevation, self.azimuth, self.camera_distances)
        self.light_positions = positions
        up = torch.tensor([0.0, 0.0, 1.0]).expand_as(positions)
        self.c2w = look_at(positions, torch.zeros_like(positions), up)
        self._directions = get_ray_directions(H=cfg.eval_height, W=cfg.eval_width, focal=1.0)

    def __len__(self) -> int:
        return self.n_views

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One camera: the keys of a batch, without the batch axis, and its `index`."""
        view = slice(index, index + 1)
        camera = camera_batch(
            self.c2w[view], self.fovy[view], self._directions, self.cfg.rays_d_normalize
        )
        return {
            "index": index,
            **{key: value[0] for key, value in camera.items()},
            "light_positions": self.light_positions[index],
            "elevation": self.elevation_deg[index],
            "azimuth": self.azimuth_deg[index],
            "camera_distances": self.camera_distances[index],
            "height": self.cfg.eval_height,
            "width": self.cfg.eval_width,
        }

    def collate(self, batch: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            **default_collate(batch),
            "height": self.cfg.eval_height,
            "width": self.cfg.eval_width,
        }


@threestudio.register("random-camera-datamodule")
class RandomCameraDataModule(pl.LightningDataModule):
    """One random view of the object after the other."""

    cfg: RandomCameraDataModuleConfig

    def __init__(self, cfg: dict | None = None) -> None:
        super().__init__()
        self.cfg = parse_structured(RandomCameraDataModuleConfig, cfg)

    def setup(self, stage: str | None = None) -> None:
        if stage in (None, "fit"):
            self.train_dataset = RandomCameraIterableDataset(self.cfg)
        if stage in (None, "fit", "validate"):
            self.val_dataset = RandomCameraDataset(self.cfg, "val")
        if stage in (None, "test", "predict"):
            self.test_dataset = RandomCameraDataset(self.cfg, "test")

    def general_loader(
        self, dataset: Any, batch_size: int | None, collate_fn: Callable | None = None
    ) -> DataLoader:
        """A loader in this process: worker processes would not see what `update_step` changes."""
        return DataLoader(dataset, num_workers=0, batch_size=batch_size, collate_fn=collate_fn)

    def train_dataloader(self) -> DataLoader:
        return self.general_loader(self.train_dataset, None, self.train_dataset.collate)

    def val_dataloader(self) -> DataLoader:
        return self.general_loader(self.val_dataset, 1, self.val_dataset.collate)

    def test_dataloader(self) -> DataLoader:
        return self.general_loader(self.test_dataset, 1, self.test_dataset.collate)

    def predict_dataloader(self) -> DataLoader:
        return self.test_dataloader()


def _radians(degrees: Tensor) -> Tensor:
    return degrees * math.pi / 180  # in this order, as threestudio: the last bit counts


def _spread(unit: Tensor, limits: Any) -> Tensor:
    low, high = limits
    return unit * (high - low) + low


def _stages(cfg: Any) -> list[list[int]]:
    """Heights, widths and batch sizes, one for each stage; a single number holds for all."""
    keys = ("height", "width", "batch_size")
    values = [getattr(cfg, key) for key in keys]
    columns = [list(v) if isinstance(v, list | tuple | ListConfig) else [v] for v in values]
    if all(len(column) == 1 for column in columns):
        return columns
    stages = len(cfg.resolution_milestones) + 1
    for key, column in zip(keys, columns, strict=True):
        if len(column) not in (1, stages):
            raise ValueError(
                f"data.{key}={column} has {len(column)} entries but data.resolution_milestones="
                f"{list(cfg.resolution_milestones)} makes {stages} stages: give one number or "
                f"{stages} of them."
            )
    return [column * stages if len(column) == 1 else column for column in columns]
