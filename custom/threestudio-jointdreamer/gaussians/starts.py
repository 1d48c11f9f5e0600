"""What Gaussians start as: columns [n c] for the geometry's parameters, colours as `rgb` (0..1)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..exporters.mesh_exporter import TO_Y_UP
from ..exporters.surface import surface, surface_colors
from .exporter import FIELDS, Y00, rotated

Columns = dict[str, Tensor]


def ball(n: int, radius: float) -> Columns:
    """Points anywhere in a ball, gray."""
    return rounded(radius * torch.rand(n, 1) ** (1 / 3) * F.normalize(torch.randn(n, 3), dim=-1))


def ply(path: str, key: str) -> Columns:
    """A PLY's Gaussians, or its points; y up and the front towards +z, as the exporter writes.

    Raises:
        ValueError: it cannot be read, or has too few points; names the config's key.
    """
    import trimesh

    try:
        vertices = trimesh.load(Path(path)).metadata["_ply_raw"]["vertex"]["data"]
        names = vertices if isinstance(vertices, dict) else vertices.dtype.names
        columns = {
            name: np.stack([np.asarray(vertices[part], float).ravel() for part in parts], axis=1)
            for name, parts in {**FIELDS, "rgb": ("red", "green", "blue")}.items()
            if set(parts) <= set(names)
        }
        if len(columns["positions"]) < 4 or not np.isfinite([*map(np.sum, columns.values())]).all():
            raise ValueError("fewer than 4 points, or numbers that are not finite")
    except Exception as error:  # anything may be in a file
        raise ValueError(f"{key}={path} is no PLY file to start with: {error}.") from error
    if set(FIELDS) <= set(columns):
        columns = rotated(columns, TO_Y_UP.T) | {"rgb": 0.5 + Y00 * columns["coefficients"]}
        return {name: torch.from_numpy(column).float() for name, column in columns.items()}
    rgb = torch.from_numpy(columns.get("rgb", np.array(127.5)) / 255)
    return rounded(torch.from_numpy(columns["positions"] @ TO_Y_UP).float()) | {"rgb": rgb}


@torch.no_grad()
def on_surface(geometry: Any, n: int, colored: bool) -> Columns:
    """Points evenly on a surface, in its colours if its features are these before a sigmoid."""
    import trimesh

    mesh = surface(geometry, smoothing=1.5)
    points, faces = trimesh.sample.sample_surface(mesh, n, seed=0)
    points, normals = (torch.from_numpy(x).float() for x in (points, mesh.face_normals[faces]))
    at, along = points.to(geometry.device), normals.to(geometry.device)
    albedo = lambda at: geometry.export(points=at)["features"][..., :3].sigmoid()  # noqa: E731
    rgb = surface_colors(geometry, albedo, at, along).cpu() if colored else torch.tensor(0.5)
    return rounded(points) | {"rgb": rgb}


def rounded(positions: Tensor) -> Columns:
    """Round Gaussians, of the mean distance of the nearest three."""
    from scipy.spatial import KDTree

    distances = KDTree(positions.numpy()).query(positions.numpy(), k=4)[0][:, 1:]
    scales = torch.from_numpy(distances).mean(dim=1, keepdim=True).clamp(min=1e-4)
    rotations = torch.eye(4)[:1].expand(len(positions), 4)
    return {"positions": positions, "log_scales": scales.log(), "rotations": rotations}
