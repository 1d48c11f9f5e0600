"""Groups of V views around one object: the camera data of multi-view distillation."""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from threestudio import register
from threestudio.data.uncond import RandomCameraDataModuleConfig, RandomCameraDataset
from threestudio.utils.config import parse_structured
from torch.utils.data import DataLoader, IterableDataset

from ..config_values import check_interval, parse_fields
from .camera_path import CameraPathDataset, read_keyframes
from .cameras import camera_batch
from .sampling import LIGHT_STRATEGIES, sample_cameras

PIXELS = "[1, 16384]"
PixelsPerStage = Annotated[Any, int | list[int], PIXELS]


@dataclass
class MultiviewCameraConfig(RandomCameraDataModuleConfig):
    """threestudio's random cameras, drawn per object and seen from `n_view` sides.

    Attributes:
        n_view: views of one object, V. `batch_size` counts views and is a multiple of it.
        azimuth_span: degrees that the views of one object spread over. 360: a full turn, 360/V
            apart. Less: both ends included, span/(V-1) apart.
        relative_radius: whether `camera_distance_range` is in units of 1/tan(fovy/2), so that an
            object fills the same part of the frame at every field of view (MVDream).
        zoom_range: factor on the field of view after the distance is set; below 1 zooms in.
        test_camera_path: a JSON file of keyframes, to test along a path and not on the turntable.
    """

    n_view: Annotated[int, "[1, inf)"] = 4
    azimuth_span: Annotated[float, "(0, 360]"] = 360.0
    relative_radius: bool = True
    zoom_range: Annotated[tuple[float, float], "(0, inf)"] = (1.0, 1.0)
    test_camera_path: Annotated[str | None, read_keyframes] = None

    # threestudio's, with its defaults but for one object in a batch; here their ranges
    height: PixelsPerStage
    width: PixelsPerStage
    batch_size: Annotated[Any, int | list[int], "[1, inf)"] = 4
    resolution_milestones: Annotated[list[int], "[0, inf)"] = field(default_factory=list)
    eval_height: Annotated[int, PIXELS]
    eval_width: Annotated[int, PIXELS]
    eval_batch_size: Annotated[int, "[1, inf)"]
    n_val_views: Annotated[int, "[1, inf)"]
    n_test_views: Annotated[int, "[1, inf)"]
    elevation_range: Annotated[tuple[float, float], "[-90, 90]"]
    camera_distance_range: Annotated[tuple[float, float], "(0, inf)"]
    fovy_range: Annotated[tuple[float, float], "(0, 180)"]
    camera_perturb: Annotated[float, "[0, inf)"]
    center_perturb: Annotated[float, "[0, inf)"]
    up_perturb: Annotated[float, "[0, inf)"]
    light_position_perturb: Annotated[float, "[0, inf)"]
    light_distance_range: Annotated[tuple[float, float], "(0, inf)"]
    eval_elevation_deg: Annotated[float, "(-90, 90)"]
    eval_camera_distance: Annotated[float, "(0, inf)"]
    eval_fovy_deg: Annotated[float, "(0, 180)"]
    light_sample_strategy: Annotated[str, LIGHT_STRATEGIES]
    progressive_until: Annotated[int, "[0, inf)"]

    def __post_init__(self) -> None:
        parse_fields(self, "data")
        ResolutionSchedule(self)
        for key in ("elevation", "azimuth", "camera_distance", "fovy", "zoom", "light_distance"):
            low, high = getattr(self, f"{key}_range")
            if low > high:
                raise ValueError(f"data.{key}_range={[low, high]}: swap the two, [low, high].")
        widest = self.fovy_range[1] * self.zoom_range[1]
        check_interval(widest, "(0, 180)", "data.fovy_range times data.zoom_range")


@dataclass(frozen=True)
class Resolution:
    """What a batch is made of: number of views and their size in pixels."""

    batch_size: int
    height: int
    width: int


class ResolutionSchedule:
    """`data.batch_size`, `height` and `width` as a function of the batch index.

    A scalar holds for the whole run, a list has one entry more than `data.resolution_milestones`.

    Raises:
        ValueError: lists of different lengths, milestones that do not increase, or a batch size
            that is no multiple of `n_view`.
    """

    def __init__(self, cfg: MultiviewCameraConfig) -> None:
        self.milestones = list(cfg.resolution_milestones)
        if self.milestones != sorted(set(self.milestones)):
            raise ValueError(
                f"data.resolution_milestones={self.milestones} must increase from step to step."
            )
        keys = ("batch_size", "height", "width")
        columns = [self._per_stage(key, getattr(cfg, key)) for key in keys]
        for size in columns[0]:
            _check_multiple(size, cfg.n_view)
        self.stages = [Resolution(*values) for values in zip(*columns, strict=True)]

    def _per_stage(self, key: str, value: Any) -> list[int]:
        stages = len(self.milestones) + 1
        values = list(value) if OmegaConf.is_list(value) or isinstance(value, list) else [value]
        if len(values) == 1:
            values = values * stages
        if len(values) != stages:
            raise ValueError(
                f"data.{key}={values} has {len(values)} entries but data.resolution_milestones="
                f"{self.milestones} makes {stages} stages: give one number or {stages} of them."
            )
        return values

    def __call__(self, index: int) -> Resolution:
        return self.stages[bisect_right(self.milestones, index)]


def _check_multiple(batch_size: int, n_view: int) -> None:
    if batch_size % n_view:
        below = batch_size // n_view * n_view
        choices = [str(size) for size in (below, below + n_view) if size]
        raise ValueError(
            f"data.batch_size={batch_size} is not a multiple of data.n_view={n_view}: "
            f"use {' or '.join(choices)}."
        )


class MultiviewCameraDataset(IterableDataset):
    """An endless stream in which batch i is a pure function of (seed, i).

    Nothing is drawn from global random state and nothing changes between batches, so it does not
    matter how early the trainer fetches a batch, nor where a run was interrupted.

    Args:
        cfg: checked by `MultiviewCameraDataModule`.
        seed: of the run.
        first_index: called when an iteration begins; the index of its first batch.
        device: called for each batch; what makes its rays.
    """

    def __init__(
        self,
        cfg: MultiviewCameraConfig,
        seed: int,
        first_index: Callable[[], int] = lambda: 0,
        device: Callable[[], torch.device | str] = lambda: "cpu",
    ) -> None:
        super().__init__()
        self.cfg = cfg
        self.seed = seed
        self.resolution = ResolutionSchedule(cfg)
        self._first_index, self._device = first_index, device

    def __iter__(self) -> Iterator[int]:
        index = self._first_index()
        while True:
            yield index
            index += 1

    def collate(self, index: int) -> dict[str, Any]:
        """Batch `index`, see `camera_batch`; views of one object are consecutive."""
        size = self.resolution(index)
        cameras = sample_cameras(self.cfg, size.batch_size // self.cfg.n_view, self.seed, index)
        return camera_batch(
            cameras, size.height, size.width, self.cfg.rays_d_normalize, self._device()
        )


@register("jointdreamer-multiview-camera-datamodule")
class MultiviewCameraDataModule(pl.LightningDataModule):
    """Training: V views of each of B/V objects. Validation and test: threestudio's turntables.

    The next batch's index is read off the trainer's own count, which every checkpoint carries.

    Raises:
        ValueError: inconsistent sizes or ranges; the message names the key.
    """

    cfg: MultiviewCameraConfig

    def __init__(self, cfg: dict | None = None) -> None:
        super().__init__()
        self.cfg = parse_structured(MultiviewCameraConfig, cfg)
        self.seed = torch.initial_seed()

    def setup(self, stage: str | None = None) -> None:
        if stage in (None, "fit"):
            self.train_dataset = MultiviewCameraDataset(
                self.cfg, self.seed, self._batches_trained, self._device
            )
        if stage in (None, "fit", "validate"):
            self.val_dataset = RandomCameraDataset(self.cfg, "val")
        if stage in (None, "test", "predict"):
            path = self.cfg.test_camera_path
            views = RandomCameraDataset if path is None else CameraPathDataset
            self.test_dataset = views(self.cfg, "test")

    def _batches_trained(self) -> int:
        if self.trainer is None:
            return 0
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed

    def _device(self) -> torch.device | str:
        return "cpu" if self.trainer is None else self.trainer.strategy.root_device

    def train_dataloader(self) -> DataLoader:
        return DataLoader(
            self.train_dataset, batch_size=None, collate_fn=self.train_dataset.collate
        )

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val_dataset, batch_size=1, collate_fn=self.val_dataset.collate)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test_dataset, batch_size=1, collate_fn=self.test_dataset.collate)

    def predict_dataloader(self) -> DataLoader:
        return self.test_dataloader()
