"""A creature's bare surface as a mesh."""

import torch
import trimesh
from skimage.measure import marching_cubes
from threestudio_jointdreamer.exporters.mesh_exporter import TO_Y_UP

from .captions import parse
from .creatures import build

HALF = 1.1  # the side of the cube that holds every creature, halved


def creature_mesh(caption: str, resolution: int = 96, n_faces: int = 6000) -> trimesh.Trimesh:
    """The outside of the caption's creature, by marching cubes; y up and the front to +z."""
    parts = build(parse(caption))
    parts = parts[parts.present]
    axis = torch.linspace(-HALF, HALF, resolution)
    points = torch.cartesian_prod(axis, axis, axis)
    inside = torch.full((len(points),), torch.inf)
    for center, inverse in zip(parts.center, parts.inverse, strict=True):
        inside = inside.minimum(((points - center) @ inverse.T).norm(dim=1) - 1)
    volume = -inside.view((resolution,) * 3).numpy()
    cell = 2 * HALF / (resolution - 1)
    vertices, faces, _, _ = marching_cubes(volume, 0.0, gradient_direction="ascent")
    mesh = trimesh.Trimesh((vertices * cell - HALF) @ TO_Y_UP.T, faces)
    return mesh.simplify_quadric_decimation(face_count=n_faces)
