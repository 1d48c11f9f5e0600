"""A mesh cut into charts, and a texture baked on them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import trimesh
from jaxtyping import Float, Int, UInt8


@dataclass(frozen=True)
class Charts:
    """A mesh whose vertices are doubled along the charts' seams."""

    vertices: Float[np.ndarray, "Nv 3"]
    normals: Float[np.ndarray, "Nv 3"]
    uv: Float[np.ndarray, "Nv 2"]  # in 0..1, v upwards
    faces: Int[np.ndarray, "Nf 3"]


def unwrap(mesh: trimesh.Trimesh) -> Charts:
    """Charts by xatlas."""
    import xatlas

    source, faces, uv = xatlas.parametrize(mesh.vertices, mesh.faces, mesh.vertex_normals)
    return Charts(mesh.vertices[source], mesh.vertex_normals[source], uv, faces.astype(np.int64))


def bake(
    charts: Charts,
    colors: Callable[[np.ndarray, np.ndarray], np.ndarray],
    size: int,
) -> UInt8[np.ndarray, "size size 3"]:
    """A texture with `colors(points [N 3], unit normals [N 3])` [N 3] (sRGB, 0..1) on the charts.

    Between the charts each texel has the colour of the nearest one inside, so that no seam shows.
    """
    from scipy.ndimage import distance_transform_edt

    face, weights = rasterize(charts.uv[charts.faces] * [1, -1] + [0, 1], size)
    inside = face >= 0
    corners = charts.faces[face[inside]]
    points, normals = (
        np.einsum("nk,nkc->nc", weights[inside], values[corners])
        for values in (charts.vertices, charts.normals)
    )
    normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-8)
    texture = np.zeros((size, size, 3), np.uint8)
    texture[inside] = np.round(colors(points, normals).clip(0, 1) * 255)
    nearest = distance_transform_edt(~inside, return_distances=False, return_indices=True)
    return texture[tuple(nearest)]


def rasterize(
    triangles: Float[np.ndarray, "N 3 2"], size: int
) -> tuple[Int[np.ndarray, "size size"], Float[np.ndarray, "size size 3"]]:
    """Which triangle (else -1) covers each pixel's centre, and its barycentric weights there.

    Args:
        triangles: corners (x, y) in 0..1, x along columns and y along rows.
    """
    corners = triangles * size - 0.5  # pixel centres at whole numbers
    low = np.ceil(corners.min(axis=1)).astype(int).clip(0, size)
    n_wide, n_high = (np.floor(corners.max(axis=1)).astype(int).clip(-1, size - 1) - low + 1).T
    counts = n_wide.clip(0) * n_high.clip(0)  # pixels in each bounding box
    owner = np.repeat(np.arange(len(corners)), counts)
    index = np.arange(len(owner)) - np.repeat(counts.cumsum() - counts, counts)
    pixel = low[owner] + np.stack([index % n_wide[owner], index // n_wide[owner]], axis=1)

    a, b, c = (corners[owner, k] for k in range(3))
    doubled_area = _cross(b - a, c - a)
    doubled_area[doubled_area == 0] = np.inf
    weights = np.stack([_cross(c - b, pixel - b), _cross(a - c, pixel - c)], axis=1)
    weights = weights / doubled_area[:, None]
    weights = np.concatenate([weights, 1 - weights.sum(axis=1, keepdims=True)], axis=1)
    hit = np.isfinite(doubled_area) & (weights >= -1e-9).all(axis=1)

    face = np.full((size, size), -1)
    barycentric = np.zeros((size, size, 3))
    x, y = pixel[hit].T
    face[y, x], barycentric[y, x] = owner[hit], weights[hit]
    return face, barycentric


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
