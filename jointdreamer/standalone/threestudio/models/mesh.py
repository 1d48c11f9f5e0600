"""A triangle mesh in tensors."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

import threestudio
from threestudio.utils.ops import dot


class Mesh:
    """Vertices `v_pos` [Nv 3] and triangles `t_pos_idx` [Nf 3], counter-clockwise from outside."""

    def __init__(self, v_pos: Float[Tensor, "Nv 3"], t_pos_idx: Integer[Tensor, "Nf 3"]) -> None:
        self.v_pos = v_pos
        self.t_pos_idx = t_pos_idx
        self._v_nrm: Float[Tensor, "Nv 3"] | None = None
        self._v_rgb: Float[Tensor, "Nv 3"] | None = None

    @property
    def v_rgb(self) -> Float[Tensor, "Nv 3"] | None:
        """Vertex colours in 0..1, where `set_vertex_color` was called."""
        return self._v_rgb

    def set_vertex_color(self, v_rgb: Float[Tensor, "Nv 3"]) -> None:
        """Gives each vertex a colour.

        Raises:
            ValueError: unless there is one for each vertex.
        """
        if v_rgb.shape[0] != self.v_pos.shape[0]:
            raise ValueError(
                f"{v_rgb.shape[0]} vertex colours for {self.v_pos.shape[0]} vertices: give one "
                "for each."
            )
        self._v_rgb = v_rgb

    @property
    def v_nrm(self) -> Float[Tensor, "Nv 3"]:
        """Unit vertex normals: the mean of the triangles around, by area; +z where that is 0."""
        if self._v_nrm is None:
            self._v_nrm = self._compute_vertex_normal()
        return self._v_nrm

    def _compute_vertex_normal(self) -> Float[Tensor, "Nv 3"]:
        a, b, c = self.v_pos[self.t_pos_idx].unbind(dim=1)
        doubled_areas = torch.linalg.cross(b - a, c - a)
        summed = torch.zeros_like(self.v_pos)
        for corner in self.t_pos_idx.unbind(dim=1):
            summed = summed.index_add(0, corner, doubled_areas)
        upward = summed.new_tensor([0.0, 0.0, 1.0])
        return F.normalize(torch.where(dot(summed, summed) > 1e-20, summed, upward), dim=1)

    def remove_outlier(self, outlier_n_faces_threshold: int | float) -> "Mesh":
        """The mesh without its small connected parts; itself if it is empty.

        Args:
            outlier_n_faces_threshold: the fewest triangles of a part that stays. A float is a
                fraction of the largest part's.
        """
        if len(self.t_pos_idx) == 0:
            return self
        import trimesh

        # trimesh merges vertices at one place, so that parts which touch there are one
        mesh = trimesh.Trimesh(
            vertices=self.v_pos.detach().cpu().numpy(), faces=self.t_pos_idx.cpu().numpy()
        )
        part = trimesh.graph.connected_component_labels(
            mesh.face_adjacency, node_count=len(mesh.faces)
        )
        n_faces = np.bincount(part)
        fewest = outlier_n_faces_threshold
        if isinstance(fewest, float):
            fewest = int(n_faces.max() * fewest)
        threestudio.debug(f"Parts of {n_faces.tolist()} triangles: those below {fewest} go.")
        faces = mesh.faces[n_faces[part] >= fewest]
        used, faces = np.unique(faces, return_inverse=True)
        return Mesh(
            torch.from_numpy(mesh.vertices[used]).to(self.v_pos),
            torch.from_numpy(faces.reshape(-1, 3)).to(self.t_pos_idx),
        )
