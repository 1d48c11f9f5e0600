"""From a field to a mesh that people can use, and the colours that are seen on it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import threestudio
import torch
import torch.nn.functional as F
import trimesh
from jaxtyping import Float
from torch import Tensor

CHUNK = 2**17  # points whose density is computed at once
DEPTHS = (0.06, -0.3)  # of the samples along a ray, outside to inside, in radii
N_SAMPLES = 20
N_VIEWS, ELEVATION_DEG = 8, 15.0  # whence a surface's colours are looked at


def surface(geometry: Any, smoothing: float) -> trimesh.Trimesh:
    """The largest part of a geometry's surface; cavities and what floats around it go.

    A density is noisy where the render does not tell, so its level set is pitted. Therefore
    density / (density + `isosurface_threshold`), which no spike exceeds, is smoothed by a Gaussian
    of `smoothing` grid cells, and the surface is where that is a half; it is closed at the volume's
    border. A geometry without a density gives its own mesh. One that is cut or open is told.

    Raises:
        ValueError: nothing lies above the threshold, or nothing is left.
    """
    if hasattr(geometry, "forward_density"):
        mesh = _density_surface(geometry, smoothing)
    else:
        found = geometry.isosurface()
        mesh = trimesh.Trimesh(found.v_pos.detach().cpu().numpy(), found.t_pos_idx.cpu().numpy())
    if len(mesh.faces) == 0:
        raise ValueError(
            "There is no surface to export: every part was removed as an outlier. Lower "
            "system.geometry.isosurface_outlier_n_faces_threshold, or train for longer."
        )
    parts = trimesh.graph.connected_components(mesh.face_adjacency, min_len=1)
    mesh = mesh.submesh([max(parts, key=len)], append=True)
    if np.abs(mesh.vertices).max() >= geometry.cfg.radius or not mesh.is_watertight:
        threestudio.warn(
            f"The object does not fit into system.geometry.radius={geometry.cfg.radius}: it is cut "
            "off at the border of the volume. Raise the radius, or train from farther away."
        )
    return mesh


def _density_surface(geometry: Any, smoothing: float) -> trimesh.Trimesh:
    from scipy.ndimage import gaussian_filter
    from skimage.measure import marching_cubes

    resolution, radius = geometry.cfg.isosurface_resolution, geometry.cfg.radius
    axis = torch.linspace(-radius, radius, resolution, device=geometry.bbox.device)
    points = torch.cartesian_prod(axis, axis, axis)
    density = torch.cat([geometry.forward_density(some) for some in points.split(CHUNK)])
    density = density.float().cpu().numpy().reshape((resolution,) * 3)
    if not np.isfinite(density).all():
        raise ValueError(
            "The geometry's density has values that are not finite, so it has no surface: the "
            "training diverged. Export an earlier checkpoint."
        )
    threshold = geometry.cfg.isosurface_threshold
    if threshold == "auto":
        threshold = float(density[density > 1e-5].mean()) if (density > 1e-5).any() else 1.0
    occupancy = gaussian_filter(density / (density + threshold), smoothing)
    if not occupancy.min() < 0.5 < occupancy.max():
        remedy = "Set a threshold well between these, or train for longer."
        if density.min() < threshold < density.max():
            remedy = f"system.exporter.smoothing={smoothing} leaves nothing of its parts: lower it."
        raise ValueError(
            f"There is no surface at system.geometry.isosurface_threshold={threshold:.4g}: the "
            f"density lies between {density.min():.4g} and {density.max():.4g}. {remedy}"
        )
    occupancy = np.pad(occupancy, 1)  # closes what the border cuts
    cell = 2 * radius / (resolution - 1)
    v_pos, t_pos_idx, _, _ = marching_cubes(
        occupancy, 0.5, spacing=(cell,) * 3, gradient_direction="ascent", allow_degenerate=False
    )
    return trimesh.Trimesh((v_pos - cell - radius).clip(-radius, radius), t_pos_idx)


def decimated(mesh: trimesh.Trimesh, n_faces: int) -> trimesh.Trimesh:
    """The mesh with at most about `n_faces` faces, each vertex with a normal."""
    if len(mesh.faces) > n_faces:
        mesh = mesh.simplify_quadric_decimation(face_count=n_faces)
    mesh.update_faces(mesh.nondegenerate_faces())
    mesh.remove_unreferenced_vertices()
    return mesh


def surface_colors(
    geometry: Any,
    albedo: Callable[[Tensor], Tensor],
    points: Float[Tensor, "N 3"],
    normals: Float[Tensor, "N 3"],
) -> Float[Tensor, "N 3"]:
    """What is seen at a surface from all round.

    The colour is composited along rays as volume rendering does (Max 1995), since the field has a
    colour everywhere and the one right at a level set was never shown to the prior. It lies deeper,
    so each side sees another one at a point; taken is the mean over views of a turn, weighted by
    the cosine between ray and unit normal as by the pixels that show the point; elsewhere what is
    seen along the normal. A geometry without a density gives its colour at the point.
    """
    if not hasattr(geometry, "forward_density"):
        return albedo(points)
    azimuth = torch.arange(0, 360, 360 / N_VIEWS, device=points.device).deg2rad()
    height = torch.full_like(azimuth, ELEVATION_DEG).deg2rad().tan()
    views = F.normalize(torch.stack([azimuth.cos(), azimuth.sin(), height], dim=1), dim=1)
    seen = 1e-4 * _composited(geometry, albedo, points, normals)
    for view in views:
        cosine = normals @ view
        facing = cosine > 0.1
        color = _composited(geometry, albedo, points[facing], view.expand_as(points[facing]))
        seen[facing] += cosine[facing, None] * color
    return (seen[:, :3] / seen[:, 3:].clamp(min=1e-12)).clamp(0, 1)


def _composited(
    geometry: Any,
    albedo: Callable[[Tensor], Tensor],
    points: Float[Tensor, "N 3"],
    directions: Float[Tensor, "N 3"],
) -> Float[Tensor, "N 4"]:
    """Colour times opacity, and opacity, of rays that come from where `directions` point."""
    radius = geometry.cfg.radius
    start, end = (depth * radius for depth in DEPTHS)
    depths = torch.linspace(start, end, N_SAMPLES, device=points.device)
    along = (points[:, None] + depths[:, None] * directions[:, None]).clamp(-radius, radius)
    density = geometry.forward_density(along.reshape(-1, 3)).reshape(len(points), N_SAMPLES)
    optical_depth = density * (start - end) / (N_SAMPLES - 1)
    before = optical_depth.cumsum(dim=1) - optical_depth
    weights = (torch.exp(-before) * -torch.expm1(-optical_depth))[..., None]
    colors = albedo(along.reshape(-1, 3)).reshape(along.shape)
    return torch.cat([(weights * colors).sum(dim=1), weights.sum(dim=1)], dim=1)
