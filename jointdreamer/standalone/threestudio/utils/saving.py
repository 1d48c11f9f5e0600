"""What a system saves: pictures, videos and meshes, below its save folder."""

import os
import re
from dataclasses import dataclass, field
from typing import Annotated, Any

import imageio.v2 as imageio
import torch

from threestudio.utils import images
from threestudio.utils.files import replacing
from threestudio.utils.meshfiles import MTL, obj_text
from threestudio.utils.video import write_video


@dataclass
class WandB:
    enable: bool = False
    project: str | None = None
    name: str | None = None


@dataclass
class Loggers:
    wandb: Annotated[dict, WandB] = field(default_factory=dict)


class SaverMixin:
    """Saving methods. File names are relative to the folder given by `set_save_dir`."""

    _save_dir: str | None = None
    _wandb_logger: Any = None

    def set_save_dir(self, save_dir: str) -> None:
        self._save_dir = save_dir

    def get_save_dir(self) -> str:
        if self._save_dir is None:
            raise ValueError("There is no folder to save to: call set_save_dir first.")
        return self._save_dir

    def get_save_path(self, filename: str) -> str:
        """The full path of a file name; its folder exists afterwards."""
        path = os.path.join(self.get_save_dir(), filename)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def convert_data(self, data: Any) -> Any:
        """A tensor as a numpy array; None and arrays as they are."""
        if not isinstance(data, torch.Tensor):
            return data
        data = data.detach().cpu()
        return (data.float() if data.dtype == torch.bfloat16 else data).numpy()

    def create_loggers(self, cfg_loggers: Any) -> None:
        """Starts Weights & Biases if `loggers.wandb.enable` says so."""
        wandb = cfg_loggers.get("wandb") or {}
        if wandb.get("enable"):
            from pytorch_lightning.loggers import WandbLogger

            self._wandb_logger = WandbLogger(project=wandb.get("project"), name=wandb.get("name"))

    def get_loggers(self) -> list:
        return [] if self._wandb_logger is None else [self._wandb_logger]

    def save_image_grid(
        self, filename: str, imgs: list, name: str | None = None, step: int | None = None
    ) -> str:
        """Saves pictures side by side (see `images.image_grid`), and returns the path."""
        cells = [{**item, "img": self.convert_data(item["img"])} for item in imgs]
        extension = os.path.splitext(filename)[1]
        # imageio closes a file on a full disk twice, and complains
        data = imageio.imwrite("<bytes>", images.image_grid(cells), format=extension)
        path = self._write(filename, data)
        if name and self._wandb_logger is not None:
            self._wandb_logger.log_image(key=name, images=[path], step=step)
        return path

    def save_img_sequence(
        self,
        filename: str,
        img_dir: str,
        matcher: str,
        save_format: str = "mp4",
        fps: int = 30,
        name: str | None = None,
        step: int | None = None,
    ) -> str:
        """Makes a video of the pictures in `img_dir` and returns its path.

        Args:
            matcher: regular expression that file names must fit; its first group is the number
                by which the frames are ordered.
            save_format: "mp4" or "gif".

        Raises:
            ValueError: for another format.
            FileNotFoundError: if no picture fits.
        """
        if save_format not in ("gif", "mp4"):
            raise ValueError(f"save_format='{save_format}' is unknown: use 'mp4' or 'gif'.")
        if not filename.endswith(save_format):
            filename += f".{save_format}"
        folder = os.path.join(self.get_save_dir(), img_dir)
        found = [(re.search(matcher, file), file) for file in os.listdir(folder)]
        numbered = sorted((int(match.group(1)), file) for match, file in found if match)
        if not numbered:
            raise FileNotFoundError(f"'{folder}' holds no picture that fits '{matcher}'.")
        frames = [imageio.imread(os.path.join(folder, file)) for _, file in numbered]
        path = self.get_save_path(filename)
        with replacing(path) as temporary:
            write_video(temporary, frames, fps)
        if name and self._wandb_logger is not None:
            self._wandb_logger.log_video(key=name, videos=[path], step=step, format=[save_format])
        return path

    def save_obj(
        self,
        filename: str,
        mesh: Any,
        save_mat: bool = False,
        save_normal: bool = False,
        save_vertex_color: bool = False,
    ) -> list[str]:
        """Saves a `Mesh` as OBJ, with `save_mat` a plain MTL beside it; returns all paths."""
        filename = filename if filename.endswith(".obj") else f"{filename}.obj"
        mtl = f"{filename.removesuffix('.obj')}.mtl"
        text = obj_text(
            self.convert_data(mesh.v_pos),
            self.convert_data(mesh.t_pos_idx),
            v_nrm=self.convert_data(mesh.v_nrm) if save_normal else None,
            v_rgb=self.convert_data(mesh.v_rgb) if save_vertex_color else None,
            mtllib=os.path.basename(mtl) if save_mat else None,
        )
        paths = [self._write(mtl, MTL.encode())] if save_mat else []
        return [*paths, self._write(filename, text.encode())]

    def _write(self, filename: str, data: bytes) -> str:
        path = self.get_save_path(filename)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            file.write(data)
        return path
