"""What a run shows of itself: validation grids, guidance pictures, the test turntable."""

import os
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor
from torch.utils.data import Dataset

from ..files import replacing
from .picture_grid import picture_grid, save_picture, to_tile
from .turntable import SHEET_AZIMUTHS, contact_sheet, nearest_views

TURN_SECONDS = 4
VP9 = {"codec": "libvpx-vp9", "pixelformat": "yuva420p", "macro_block_size": 1, "quality": None}
VP9["output_params"] = ["-crf", "24", "-b:v", "0", "-deadline", "good", "-cpu-used", "4"]


class ViewingMixin:
    """Validation and test of a `BaseLift3DSystem`; file names carry the training step.

    `it{step}-val.png`: all validation views, rows render, normal (if any), opacity.
    `it{step}-train.png`: what the guidance saw and predicted.
    `it{step}-test/`, `.mp4`, `-contact-sheet.png`: the turntable; `it{step}-path/`, `.mp4`: along
    `data.test_camera_path`. Beside either, with `transparent_film`: `-transparent/`, `.webm`.
    """

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._val_views: dict[int, Tensor] = {}

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        out = self(batch)
        view = [out["comp_rgb"], out.get("comp_normal"), out["opacity"]]
        view = [to_tile(image[0]) for image in view if image is not None]
        self._val_views[int(batch["index"][0])] = torch.from_numpy(np.stack(view))

    def on_validation_epoch_end(self) -> None:
        views = self._from_all_ranks(self._val_views)
        if not views:
            return
        self._val_views = {}
        columns = [views[index].numpy() for index in sorted(views)]
        labels = ["render", "normal", "opacity"] if len(columns[0]) == 3 else ["render", "opacity"]
        rows = [list(row) for row in zip(*columns, strict=True)]
        self._save(f"it{self.true_global_step}-val.png", rows, row_labels=labels)

    def _from_all_ranks(self, views: dict[int, Tensor]) -> dict[int, Tensor]:
        parts = [views] * self.trainer.world_size
        if len(parts) > 1:
            torch.distributed.all_gather_object(parts, views)
        return {index: view for part in parts for index, view in part.items()}

    def save_guidance_pictures(
        self,
        rgb: Float[Tensor, "B H W 3"],
        pictures: dict[str, Any],
        batch: dict[str, Any],
    ) -> None:
        """Saves every `imgs_*` [n h w 3] of the guidance's `eval`, the renders above them."""
        rows = {
            name.removeprefix("imgs_"): images
            for name, images in pictures.items()
            if name.startswith("imgs_")
        }
        count = min(len(images) for images in rows.values())
        rows = {"render": rgb, **rows}
        self._save(
            f"it{self.true_global_step}-train.png",
            [[to_tile(image) for image in images[:count]] for images in rows.values()],
            row_labels=[name.replace("_", " ") for name in rows],
            column_labels=[f"azimuth {round(float(a)) % 360}°" for a in batch["azimuth"][:count]],
        )

    @rank_zero_only
    def _save(self, filename: str, rows: list, **labels: Any) -> None:
        save_picture(self.get_save_path(filename), picture_grid(rows, **labels))

    @property
    def _turntable(self) -> str:
        return f"it{self.true_global_step}-{getattr(self.dataset, 'name', 'test')}"

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        out = self(batch)
        look = {"data_format": "HWC", "data_range": (0, 1)}
        images = [out[key][0] for key in ("comp_rgb", "comp_normal") if key in out]
        self.save_image_grid(
            f"{self._turntable}/{int(batch['index'][0])}.png",
            [{"type": "rgb", "img": image, "kwargs": look} for image in images],
            name="test_step",
            step=self.true_global_step,
        )
        if self.cfg.transparent_film:
            path = f"{self._turntable}-transparent/{int(batch['index'][0])}.png"
            save_picture(self.get_save_path(path), Image.fromarray(without_background(out)))

    def on_test_epoch_end(self) -> None:
        self.trainer.strategy.barrier()  # other devices render some of the views
        self._finish_turntable(self.dataset)

    @rank_zero_only
    def _finish_turntable(self, views: Dataset) -> None:
        fps = getattr(views, "fps", max(1, round(len(views) / TURN_SECONDS)))
        self.save_img_sequence(
            self._turntable,
            self._turntable,
            r"(\d+)\.png",
            save_format="mp4",
            fps=fps,
            name="test",
            step=self.true_global_step,
        )
        if self._turntable.endswith("-test"):
            azimuths = [float(views[index]["azimuth"]) for index in range(len(views))]
            chosen = nearest_views(azimuths, SHEET_AZIMUTHS)
            tiles = [self._test_render(index, views[index]["width"]) for index in chosen]
            sheet = contact_sheet(tiles, [azimuths[index] for index in chosen])
            save_picture(self.get_save_path(f"{self._turntable}-contact-sheet.png"), sheet)
        if self.cfg.transparent_film:
            folder = Path(self.get_save_path(f"{self._turntable}-transparent"))
            frames = [np.asarray(Image.open(folder / f"{i}.png")) for i in range(len(views))]
            try:
                with replacing(self.get_save_path(f"{self._turntable}.webm")) as path:
                    imageio.mimwrite(path, frames, fps=fps, **VP9)
            except OSError as error:
                reason = str(error).partition("\n")[0]
                raise OSError(
                    f"system.transparent_film: ffmpeg wrote no VP9 ({reason}). Give it "
                    "room on the disk, or set IMAGEIO_FFMPEG_EXE to an ffmpeg with libvpx-vp9; the "
                    f"frames are in {folder}."
                ) from error

    @rank_zero_only
    def save_bytes(self, filename: str, data: bytes) -> None:
        """A file of jointdreamer-mesh-exporter's."""
        with replacing(self.get_save_path(filename)) as path:
            path.write_bytes(data)

    def _test_render(self, index: int, width: int) -> np.ndarray:
        """The leftmost picture of a saved test frame."""
        path = os.path.join(self.get_save_dir(), self._turntable, f"{index}.png")
        with Image.open(path) as frame:
            return np.asarray(frame.convert("RGB"))[:, :width]


def without_background(out: dict[str, Float[Tensor, "1 H W C"]]) -> UInt8[np.ndarray, "H W 4"]:
    """A renderer's picture as sRGB that is not multiplied by its opacity, and that.

    Raises:
        ValueError: the renderer does not say what is behind.
    """
    if not {"comp_rgb_bg", "opacity"} <= out.keys():
        raise ValueError("system.transparent_film=true needs a renderer that gives comp_rgb_bg.")
    opacity = out["opacity"][0]
    foreground = out["comp_rgb"][0] - (1 - opacity) * out["comp_rgb_bg"][0]
    rgba = torch.cat([foreground / opacity.clamp(min=1e-3), opacity], dim=-1)
    return rgba.clamp(0, 1).mul(255).round().to("cpu", torch.uint8).numpy()
