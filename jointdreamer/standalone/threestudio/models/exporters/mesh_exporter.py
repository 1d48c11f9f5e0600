"""`mesh-exporter`: the asset as a mesh with vertex colours, in OBJ."""

import re
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

import threestudio
from threestudio.models.exporters.base import Exporter, ExporterOutput
from threestudio.models.mesh import Mesh
from threestudio.utils.ops import chunk_batch

FORMATS = ("obj-mtl", "obj", "glb")
CHUNK = 2**18  # vertices whose colours are computed at once


@threestudio.register("mesh-exporter")
class MeshExporter(Exporter):
    """The geometry's isosurface, coloured with the material's albedo.

    Raises:
        ValueError: for textures (they need a rasterizer, which this host does not have), and, when
            called, if there is no surface.
    """

    @dataclass
    class Config(Exporter.Config):
        fmt: Annotated[str, FORMATS] = "obj-mtl"
        save_name: Annotated[str, re.compile(r"[^/\\]+")] = "model"
        save_normal: bool = False
        # texture maps, which threestudio can make: false here, vertex colours instead
        save_uv: bool = False
        save_texture: bool = False
        texture_size: Annotated[int, "[1, inf)"] = 1024
        texture_format: str = "jpg"
        xatlas_chart_options: dict = field(default_factory=dict)
        xatlas_pack_options: dict = field(default_factory=dict)
        context_type: str = "gl"

        def __post_init__(self) -> None:
            for key in ("save_uv", "save_texture"):
                if getattr(self, key):
                    raise ValueError(
                        f"system.exporter.{key}=true needs a rasterizer, which the standalone host "
                        f"does not have: set {key}=false for vertex colours, or export in "
                        "threestudio."
                    )

    cfg: Config

    def __call__(self) -> list[ExporterOutput]:
        if self.cfg.fmt == "glb":  # in configs of this project's before it had that exporter
            exporter = threestudio.find("jointdreamer-mesh-exporter")
            parts = (self.geometry, self.material, self.background)
            return exporter({"save_name": self.cfg.save_name}, *parts)()
        mesh = self.geometry.isosurface()
        if len(mesh.t_pos_idx) == 0:
            raise ValueError(
                "There is no surface to export: the field crosses "
                "system.geometry.isosurface_threshold nowhere. Set another threshold (lower for a "
                "faint density), or train for longer."
            )
        has_colour = self._set_colours(mesh)
        params = {
            "mesh": mesh,
            "save_mat": self.cfg.fmt == "obj-mtl",
            "save_normal": self.cfg.save_normal,
            "save_vertex_color": has_colour,
        }
        return [ExporterOutput(f"{self.cfg.save_name}.obj", "obj", params)]

    def _set_colours(self, mesh: Mesh) -> bool:
        """Gives the vertices their albedo; False, with a warning, if the material has none."""

        def albedo(points: Tensor) -> Tensor | None:
            exported = self.material.export(points=points, **self.geometry.export(points=points))
            return exported.get("albedo")

        with torch.no_grad():
            v_rgb = chunk_batch(albedo, CHUNK, mesh.v_pos)
        if v_rgb is None:
            threestudio.warn("The material exports no albedo: the mesh has no colours.")
            return False
        mesh.set_vertex_color(v_rgb)
        return True
