"""What a geometry is: a field in a box, and the mesh of one of its level sets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.models.isosurface import MarchingCubeCPUHelper
from threestudio.models.mesh import Mesh
from threestudio.utils.base import BaseModule
from threestudio.utils.ops import chunk_batch, scale_tensor

_COARSE_MARGIN = 0.1
_AUTO_THRESHOLD_EPS = 1e-5
_DEFAULT_CHUNK = 2**18


def check_threshold(value: float | str, key: str) -> None:
    """For the annotation of a config's field.

    Raises:
        ValueError: neither a number nor `auto`; names the key.
    """
    if isinstance(value, str) and value != "auto":
        raise ValueError(f"{key}={value!r} is unknown: give a number or auto.")


Threshold = Annotated[Any, float | str, check_threshold]  # OmegaConf's unions know no whole number


class BaseGeometry(BaseModule):
    """What is rendered, of any kind."""

    @dataclass
    class Config(BaseModule.Config):
        pass

    cfg: Config

    @staticmethod
    def create_from(other: Any, cfg: Any = None, **kwargs: Any) -> "BaseGeometry":
        """The geometry of another run, remade as this kind.

        Raises:
            TypeError: that cannot be.
        """
        raise TypeError(f"Nothing can be made of a {type(other).__name__}.")

    def export(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What a material's `export` needs at points."""
        return {}


class BaseImplicitGeometry(BaseGeometry):
    """A field over the cube of half side `radius`, whose level set is the surface."""

    @dataclass
    class Config(BaseGeometry.Config):
        """Keys of the mesh extraction start with `isosurface`.

        `isosurface_method`: "mc-cpu", marching cubes; threestudio's own default "mt" needs its
        tetrahedra files. `isosurface_threshold` "auto" is the mean of the field where it is
        positive. `isosurface_chunk` points are evaluated at once (0: a size that fits).
        `isosurface_outlier_n_faces_threshold`: components with fewer faces are removed; a float is
        a fraction of the largest component's.
        """

        radius: Annotated[float, "(0, inf)"] = 1.0
        isosurface: bool = True
        isosurface_method: Annotated[str, ("mc-cpu", "mt")] = "mc-cpu"
        isosurface_resolution: Annotated[int, "[2, 2048]"] = 128
        isosurface_threshold: Threshold = 0.0
        isosurface_chunk: Annotated[int, "[0, inf)"] = 0
        isosurface_coarse_to_fine: bool = True
        isosurface_remove_outliers: bool = True
        isosurface_outlier_n_faces_threshold: Annotated[int | float, "[0, inf)"] = 0.01

    cfg: Config

    def configure(self) -> None:
        self.bbox: Float[Tensor, "2 3"]
        corner = torch.full((3,), float(self.cfg.radius))
        self.register_buffer("bbox", torch.stack([-corner, corner]))
        self.isosurface_helper: MarchingCubeCPUHelper | None = None

    def forward_density(self, points: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N 1"]:
        """The field at world points."""
        raise NotImplementedError

    @torch.no_grad()
    def isosurface(self) -> Mesh:
        """Extract the mesh, on a grid over the whole box or, coarse to fine, around the object.

        Raises:
            ValueError: if nothing lies above the threshold, or the method is not available.
        """
        if not self.cfg.isosurface:
            raise ValueError(
                "geometry.isosurface=false forbids the extraction of a mesh: set it to true."
            )
        self._initialize_isosurface_helper()
        if not self.cfg.isosurface_coarse_to_fine:
            return self._isosurface(self.bbox)
        coarse = self._isosurface(self.bbox)
        low, high = coarse.v_pos.amin(dim=0), coarse.v_pos.amax(dim=0)
        margin = (high - low) * _COARSE_MARGIN
        tight = torch.stack([(low - margin).max(self.bbox[0]), (high + margin).min(self.bbox[1])])
        return self._isosurface(tight)

    def _initialize_isosurface_helper(self) -> None:
        if self.isosurface_helper is not None:
            return
        method, resolution = self.cfg.isosurface_method, self.cfg.isosurface_resolution
        if method == "mt":
            tets = Path(f"load/tets/{resolution}_tets.npz")
            found = "exists but" if tets.exists() else "is missing, and"
            raise ValueError(
                f"geometry.isosurface_method=mt: {tets} {found} the standalone host has no "
                "marching tetrahedra. Set geometry.isosurface_method=mc-cpu."
            )
        if method != "mc-cpu":
            raise ValueError(f"geometry.isosurface_method={method} is unknown: use mc-cpu.")
        self.isosurface_helper = MarchingCubeCPUHelper(resolution).to(self.bbox.device)

    def _isosurface(self, bbox: Float[Tensor, "2 3"]) -> Mesh:
        helper = self.isosurface_helper
        assert helper is not None

        def field_at(vertices: Float[Tensor, "n 3"]) -> Float[Tensor, "n 1"]:
            points = scale_tensor(vertices.to(bbox.device), helper.points_range, bbox)
            return self.forward_density(points).to(vertices.device)

        chunk = self.cfg.isosurface_chunk or _DEFAULT_CHUNK
        field = chunk_batch(field_at, chunk, helper.grid_vertices)
        threshold = self._threshold(field)
        mesh = helper(threshold - field)
        if mesh.t_pos_idx.shape[0] == 0:
            raise ValueError(
                f"There is no surface at geometry.isosurface_threshold={threshold:.4g}: the field "
                f"lies between {field.min():.4g} and {field.max():.4g}. Set "
                "geometry.isosurface_threshold between these, or train longer."
            )
        mesh.v_pos = scale_tensor(mesh.v_pos, helper.points_range, bbox)
        if self.cfg.isosurface_remove_outliers:
            fewest = self.cfg.isosurface_outlier_n_faces_threshold
            n_faces, mesh = len(mesh.t_pos_idx), mesh.remove_outlier(fewest)
            if len(mesh.t_pos_idx) == 0:
                raise ValueError(
                    "Every part of the surface was removed as an outlier: lower "
                    f"geometry.isosurface_outlier_n_faces_threshold={fewest}, since all parts "
                    f"together have {n_faces} faces."
                )
        to_border = self.cfg.radius - mesh.v_pos.abs().max()
        if bbox is self.bbox and to_border < 1e-4 * self.cfg.radius:
            threestudio.warn(
                "The mesh is open at the volume's border: see whether the object fits into "
                f"system.geometry.radius={self.cfg.radius}."
            )
        return mesh

    def _threshold(self, field: Float[Tensor, "N 1"]) -> float:
        threshold = self.cfg.isosurface_threshold
        if not isinstance(threshold, str):
            return float(threshold)
        positive = field[field > _AUTO_THRESHOLD_EPS]
        value = float(positive.mean()) if positive.numel() else 0.0
        threestudio.info(f"The surface is taken at the field's positive mean, {value:.4g}.")
        return value
