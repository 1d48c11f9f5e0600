"""`jointdreamer-mesh-exporter`: the asset as a clean, textured mesh in files that open anywhere."""

import re
from dataclasses import dataclass
from io import BytesIO
from typing import Annotated, Any

import numpy as np
import threestudio
import torch
import trimesh
from jaxtyping import Float
from PIL import Image
from threestudio.models.exporters.base import Exporter, ExporterOutput
from torch import Tensor

from ..config_values import parse_fields
from .surface import decimated, surface, surface_colors
from .texture import bake, unwrap
from .usdz import usdz

FORMATS = ("glb", "obj", "ply", "stl", "usdz")
TO_Y_UP = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])  # and the front to +z
CHUNK = 2**14  # texels whose colours are computed at once


def parse_formats(value: Any, key: str) -> list[str]:
    """The formats of `system.exporter.fmt`.

    Raises:
        ValueError: one is unknown.
    """
    formats = [word.strip() for word in str(value).split(",")]
    if unknown := [word for word in formats if word not in FORMATS]:
        raise ValueError(f"{key}={value!r}: {unknown[0]!r} is unknown, use {', '.join(FORMATS)}.")
    return formats


@threestudio.register("jointdreamer-mesh-exporter")
class MeshExporter(Exporter):
    """The geometry's largest part, smoothed, with normals and the colours of the render.

    Files have y up and the asset's front (azimuth 0) towards +z, as glTF 2.0 section 3.4 has it.
    `glb` and `usdz` have a base colour texture in a rough, non-metallic material; `obj` comes with
    .mtl and .png; `ply` has vertex colours; `stl` has none.

    Raises:
        ValueError: an unknown format, and, when called, no surface, or no usd-core for usdz.
    """

    @dataclass
    class Config(Exporter.Config):
        fmt: Annotated[str, parse_formats] = "glb"  # of FORMATS; several with commas between
        save_name: Annotated[str, re.compile(r"[^/\\]+")] = "model"
        n_faces: Annotated[int, "[1, inf)"] = 20000  # at most, where the grid gives more
        smoothing: Annotated[float, "[0, inf)"] = 1.5  # of the field, in grid cells
        texture_size: Annotated[int, "[1, inf)"] = 1024  # pixels

        def __post_init__(self) -> None:
            parse_fields(self, "system.exporter")

    cfg: Config

    @torch.no_grad()
    def __call__(self) -> list[ExporterOutput]:
        charts = unwrap(self._mesh())
        texture = bake(charts, self._colors, self.cfg.texture_size)
        material = trimesh.visual.material.PBRMaterial(
            baseColorTexture=Image.fromarray(texture), metallicFactor=0.0, roughnessFactor=1.0
        )
        textured = trimesh.Trimesh(
            charts.vertices @ TO_Y_UP.T,
            charts.faces,
            vertex_normals=charts.normals @ TO_Y_UP.T,
            visual=trimesh.visual.TextureVisuals(uv=charts.uv, material=material),
            process=False,
        )
        files = {}
        for fmt in parse_formats(self.cfg.fmt, "system.exporter.fmt"):
            files |= _encode(textured, fmt, self.cfg.save_name)
        return [ExporterOutput(name, "bytes", {"data": data}) for name, data in files.items()]

    def _mesh(self) -> trimesh.Trimesh:
        if hasattr(self.geometry, "surface"):  # a mesh that the user brought
            return self.geometry.surface()
        return decimated(surface(self.geometry, self.cfg.smoothing), self.cfg.n_faces)

    def _colors(
        self, points: Float[np.ndarray, "N 3"], normals: Float[np.ndarray, "N 3"]
    ) -> Float[np.ndarray, "N 3"]:
        """sRGB in 0..1; white where the material has no albedo."""
        colors = []
        for start in range(0, len(points), CHUNK):
            at, along = (
                torch.from_numpy(rows[start : start + CHUNK]).float().to(self.device)
                for rows in (points, normals)
            )
            colors.append(surface_colors(self.geometry, self._albedo, at, along).cpu().numpy())
        return np.concatenate(colors)

    def _albedo(self, points: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N 3"]:
        exported = self.material.export(points=points, **self.geometry.export(points=points))
        albedo = exported.get("albedo")
        return torch.ones_like(points) if albedo is None else albedo


def _encode(mesh: trimesh.Trimesh, fmt: str, name: str) -> dict[str, bytes]:
    """A mesh's files: names and contents."""
    if fmt == "usdz":
        return {f"{name}.usdz": usdz(mesh)}
    if fmt == "obj":
        text, others = trimesh.exchange.obj.export_obj(
            mesh, include_normals=True, return_texture=True, mtl_name=f"{name}.mtl"
        )
        return {f"{name}.obj": text.encode(), **others}
    if fmt == "ply":
        mesh = trimesh.Trimesh(
            mesh.vertices, mesh.faces, visual=mesh.visual.to_color(), process=False
        )
    stream = BytesIO()
    mesh.export(stream, file_type=fmt)
    return {f"{name}.{fmt}": stream.getvalue()}
