"""What a system saves: pictures, videos, meshes and numbers, below its save folder."""

import json
import os
import re
import shutil
from typing import Any

import imageio.v2 as imageio
import numpy as np
import torch

from threestudio.utils import images
from threestudio.utils.files import replacing
from threestudio.utils.meshfiles import TEXTURES, glb_bytes, mtl_text, obj_text
from threestudio.utils.video import write_video


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
        """Tensors to numpy, also inside lists and dicts.

        Raises:
            TypeError: for anything else.
        """
        if data is None or isinstance(data, np.ndarray):
            return data
        if isinstance(data, torch.Tensor):
            data = data.detach().cpu()
            return (data.float() if data.dtype == torch.bfloat16 else data).numpy()
        if isinstance(data, list):
            return [self.convert_data(item) for item in data]
        if isinstance(data, dict):
            return {key: self.convert_data(item) for key, item in data.items()}
        raise TypeError(
            f"{type(data).__name__} cannot be saved: give arrays, tensors, or lists "
            "and dicts of them."
        )

    def create_loggers(self, cfg_loggers: Any) -> None:
        """Starts Weights & Biases if `loggers.wandb.enable` says so."""
        wandb = cfg_loggers.get("wandb")
        if wandb is not None and wandb.enable:
            from pytorch_lightning.loggers import WandbLogger

            self._wandb_logger = WandbLogger(project=wandb.project, name=wandb.name)

    def get_loggers(self) -> list:
        return [] if self._wandb_logger is None else [self._wandb_logger]

    def _write_image(
        self, filename: str, img: np.ndarray, name: str | None = None, step: int | None = None
    ) -> str:
        path = self.get_save_path(filename)
        with replacing(path) as temporary:
            imageio.imwrite(temporary, img)
        if name and self._wandb_logger is not None:
            self._wandb_logger.log_image(key=name, images=[path], step=step)
        return path

    def save_rgb_image(
        self, filename, img, data_format="HWC", data_range=(0, 1), name=None, step=None
    ) -> str:
        """Saves a colour picture (see `images.rgb_image`) and returns its path."""
        img = images.rgb_image(self.convert_data(img), data_format, data_range)
        return self._write_image(filename, img, name, step)

    def save_uv_image(
        self, filename, img, data_format="HWC", data_range=(0, 1), cmap="checkerboard"
    ) -> str:
        """Saves texture coordinates (see `images.uv_image`) and returns the path."""
        img = images.uv_image(self.convert_data(img), data_format, data_range, cmap)
        return self._write_image(filename, img)

    def save_grayscale_image(
        self, filename, img, data_range=None, cmap="jet", name=None, step=None
    ) -> str:
        """Saves one channel (see `images.grayscale_image`) and returns the path."""
        img = images.grayscale_image(self.convert_data(img), data_range, cmap)
        return self._write_image(filename, img, name, step)

    def save_image_grid(
        self,
        filename: str,
        imgs: list,
        align: Any = "max",
        name: str | None = None,
        step: int | None = None,
        texts: list | None = None,
    ) -> str:
        """Saves pictures side by side (see `images.image_grid`), and returns the path.

        Args:
            texts: written down the left side, one for each of as many equal rows.
        """
        grid = images.image_grid(self._converted_cells(imgs), align)
        if texts:
            grid = images.write_texts(grid, texts)
        return self._write_image(filename, grid, name, step)

    def _converted_cells(self, imgs: list) -> list:
        if isinstance(imgs[0], list):
            return [self._converted_cells(row) for row in imgs]
        return [{**item, "img": self.convert_data(item["img"])} for item in imgs]

    def save_image(self, filename: str, img: Any) -> str:
        """Saves an array [H W], [H W 3] or [H W 4] of uint8 or uint16 as it is.

        Raises:
            ValueError: for another dtype.
        """
        img = self.convert_data(img)
        if img.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"save_image got {img.dtype}: give uint8 or uint16 values.")
        return self._write_image(filename, img)

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

    def save_mesh(self, filename, v_pos, t_pos_idx, v_tex=None, t_tex_idx=None) -> str:
        """Saves bare triangles in the format that the file name's extension says."""
        import trimesh

        path = self.get_save_path(filename)
        mesh = trimesh.Trimesh(
            vertices=self.convert_data(v_pos), faces=self.convert_data(t_pos_idx), process=False
        )
        with replacing(path) as temporary:
            mesh.export(temporary)
        return path

    def save_obj(
        self,
        filename: str,
        mesh: Any,
        save_mat: bool = False,
        save_normal: bool = False,
        save_uv: bool = False,
        save_vertex_color: bool = False,
        map_Kd: Any = None,
        map_Ks: Any = None,
        map_Bump: Any = None,
        map_Pm: Any = None,
        map_Pr: Any = None,
        map_format: str = "jpg",
    ) -> list[str]:
        """Saves a `Mesh` as OBJ, with `save_mat` beside its MTL and textures; returns all paths.

        Args:
            map_Kd, map_Ks, map_Bump: textures [H W 3] in 0..1: colour, specular, normals.
            map_Pm, map_Pr: textures [H W 1] in 0..1: metallic, roughness.
        """
        filename = filename if filename.endswith(".obj") else f"{filename}.obj"
        paths, material = [], {}
        if save_mat:
            maps = {"map_Kd": map_Kd, "map_Ks": map_Ks, "map_Bump": map_Bump}
            maps |= {"map_Pm": map_Pm, "map_Pr": map_Pr}
            mtl = f"{filename.removesuffix('.obj')}.mtl"
            paths += self._save_mtl(mtl, "default", maps, map_format)
            material = {"matname": "default", "mtllib": os.path.basename(mtl)}
        text = obj_text(
            self.convert_data(mesh.v_pos),
            self.convert_data(mesh.t_pos_idx),
            v_nrm=self.convert_data(mesh.v_nrm) if save_normal else None,
            v_tex=self.convert_data(mesh.v_tex) if save_uv else None,
            t_tex_idx=self.convert_data(mesh.t_tex_idx) if save_uv else None,
            v_rgb=self.convert_data(mesh.v_rgb) if save_vertex_color else None,
            **material,
        )
        return [*paths, self._write_text(filename, text)]

    def _save_mtl(self, filename: str, matname: str, maps: dict, map_format: str) -> list[str]:
        files, paths = {}, []
        for line, (stem, is_colour) in TEXTURES.items():
            if maps[line] is None:
                continue
            files[line] = f"{stem}.{map_format}"
            target = os.path.join(os.path.dirname(filename), files[line])
            texture = self.convert_data(maps[line])
            if is_colour:
                paths.append(self.save_rgb_image(target, texture))
            else:
                gray = texture[..., 0] if texture.ndim == 3 else texture
                paths.append(self.save_grayscale_image(target, gray, (0, 1), cmap=None))
        return [self._write_text(filename, mtl_text(matname, files)), *paths]

    def save_glb(
        self,
        filename: str,
        mesh: Any,
        save_vertex_color: bool = True,
        save_normal: bool = False,
    ) -> str:
        """Saves a `Mesh` as binary glTF, y up, with any colours it has; returns the path."""
        filename = filename if filename.endswith(".glb") else f"{filename}.glb"
        has_colour = save_vertex_color and mesh.v_rgb is not None
        data = glb_bytes(
            self.convert_data(mesh.v_pos),
            self.convert_data(mesh.t_pos_idx),
            v_rgb=self.convert_data(mesh.v_rgb) if has_colour else None,
            v_nrm=self.convert_data(mesh.v_nrm) if save_normal else None,
        )
        path = self.get_save_path(filename)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            file.write(data)
        return path

    def save_file(self, filename: str, src_path: str) -> str:
        """Copies a file into the save folder and returns the new path."""
        path = self.get_save_path(filename)
        with replacing(path) as temporary:
            shutil.copyfile(src_path, temporary)
        return path

    def save_json(self, filename: str, payload: Any) -> str:
        """Saves what `json` can hold and returns the path."""
        return self._write_text(filename, json.dumps(payload))

    def _write_text(self, filename: str, text: str) -> str:
        path = self.get_save_path(filename)
        with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
        return path
