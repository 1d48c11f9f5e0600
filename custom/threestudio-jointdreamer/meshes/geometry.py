"""`jointdreamer-mesh`: a mesh that the user brings, and a field of colours in its space."""

from dataclasses import dataclass, field
from typing import Annotated, Any

import threestudio
import torch
import trimesh
from jaxtyping import Float
from threestudio.models.geometry.base import BaseGeometry
from threestudio.models.mesh import Mesh
from threestudio.models.networks import get_encoding, get_mlp
from threestudio.utils.ops import scale_tensor
from torch import Tensor, nn

from ..config_values import parse_fields
from .reading import AXES, read_mesh, to_world

GRID = {"otype": "HashGrid", "n_levels": 16, "n_features_per_level": 2, "base_resolution": 16}
GRID |= {"log2_hashmap_size": 19, "per_level_scale": 1.447269237440378}
MLP = {"otype": "VanillaMLP", "activation": "ReLU", "output_activation": "none"}
MLP |= {"n_neurons": 64, "n_hidden_layers": 1}


class RegularisedMesh(Mesh):
    """A host's mesh, with the regularisers of `system.loss`, as threestudio defines them."""

    def normal_consistency(self) -> Float[Tensor, ""]:
        """Mean of 1 - cos between the normals at the two ends of each edge."""
        pairs = self.t_pos_idx[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).sort(dim=1).values
        start, end = self.v_nrm[pairs.unique(dim=0)].unbind(dim=1)
        return (1 - torch.cosine_similarity(start, end, dim=-1)).mean()

    def laplacian(self) -> Float[Tensor, ""]:
        """Mean length of the sum of the vectors from a vertex's neighbours to it."""
        pairs = self.t_pos_idx[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
        start, end = torch.cat([pairs, pairs.flip(1)]).unique(dim=0).unbind(dim=1)
        edges = self.v_pos[start] - self.v_pos[end]
        return torch.zeros_like(self.v_pos).index_add(0, start, edges).norm(dim=1).mean()


@threestudio.register("jointdreamer-mesh")
class MeshGeometry(BaseGeometry):
    """The file's vertices and faces, and features of points, by an encoding and a small network.

    Config:
        path: a glb, gltf, obj, ply, stl or off file, which must stay; its objects are joined, and
            vertices at one place merged.
        up, front: the file's axes; glTF's, and those of `jointdreamer-mesh-exporter`, if not given.
        size: how much of `radius` the mesh fills.
        max_faces: more are refused, since unwrapping them for the export takes minutes.
        fix_geometry: false makes `vertex_offsets` parameters, for `system.optimizer.params`.
    """

    @dataclass
    class Config(BaseGeometry.Config):
        path: str = ""
        up: Annotated[str, tuple(AXES)] = "+y"
        front: Annotated[str, tuple(AXES)] = "+z"
        size: Annotated[float, "(0, 1]"] = 0.9
        max_faces: Annotated[int, "[1, inf)"] = 200_000
        fix_geometry: bool = True
        radius: Annotated[float, "(0, inf)"] = 1.0
        n_feature_dims: Annotated[int, "[1, inf)"] = 3
        pos_encoding_config: dict = field(default_factory=lambda: dict(GRID))
        mlp_network_config: dict = field(default_factory=lambda: dict(MLP))

        def __post_init__(self) -> None:
            parse_fields(self, "system.geometry")
            if self.up[1] == self.front[1]:
                raise ValueError(
                    f"system.geometry.up={self.up} and front={self.front} are one axis: give two."
                )

    cfg: Config

    def configure(self) -> None:
        cfg = self.cfg
        mesh = read_mesh(cfg.path, "system.geometry.path")
        mesh.vertices = to_world(mesh.vertices, cfg.up, cfg.front, cfg.size * cfg.radius)
        mesh.merge_vertices()
        if len(mesh.faces) > cfg.max_faces:
            raise ValueError(
                f"system.geometry.path={cfg.path!r} has {len(mesh.faces)} faces: reduce them to "
                f"system.geometry.max_faces={cfg.max_faces}, or raise that."
            )
        self.register_buffer("vertices", torch.from_numpy(mesh.vertices.copy()).float())
        self.register_buffer("faces", torch.from_numpy(mesh.faces.copy()).long())
        if not cfg.fix_geometry:
            self.vertex_offsets = nn.Parameter(torch.zeros_like(self.vertices))
        corner = torch.full((3,), float(cfg.radius))
        self.register_buffer("bbox", torch.stack([-corner, corner]))
        self.encoding = get_encoding(3, cfg.pos_encoding_config)
        n_encoded = self.encoding.n_output_dims
        self.feature_network = get_mlp(n_encoded, cfg.n_feature_dims, cfg.mlp_network_config)

    def isosurface(self) -> RegularisedMesh:
        """The mesh as it is now, in the world."""
        moved = 0 if self.cfg.fix_geometry else self.vertex_offsets
        return RegularisedMesh(v_pos=self.vertices + moved, t_pos_idx=self.faces)

    def surface(self) -> trimesh.Trimesh:
        """What an exporter writes as it is, without a change of shape."""
        mesh = self.isosurface()
        v_pos, t_pos_idx = mesh.v_pos.detach().cpu().numpy(), mesh.t_pos_idx.cpu().numpy()
        return trimesh.Trimesh(v_pos, t_pos_idx, process=False)

    def forward(self, points: Float[Tensor, "*N 3"], **kwargs: Any) -> dict[str, Tensor]:
        """`features` [*N Nf] at world points."""
        unit = scale_tensor(points, self.bbox, (0, 1)).reshape(-1, 3)
        features = self.feature_network(self.encoding(unit))
        return {"features": features.view(*points.shape[:-1], self.cfg.n_feature_dims)}

    export = forward
