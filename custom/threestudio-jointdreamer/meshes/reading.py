"""From a file of the user's to vertices and faces in threestudio's world."""

from pathlib import Path

import numpy as np
import trimesh
from jaxtyping import Float

from ..weights.names import find_local

FORMATS = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
AXES = {f"{'+-'[k]}{'xyz'[i]}": (1 - 2 * k) * np.eye(3)[i] for k in (0, 1) for i in range(3)}


def read_mesh(path: str, key: str) -> trimesh.Trimesh:
    """All objects of a file in one mesh, where the file puts them; colours are left behind.

    Args:
        path: looked up in the working directory and then in the repository.
        key: the config key, for errors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of another kind, cannot be read, or has no faces.
    """
    found = find_local(path)
    if found is None or not found.is_file():
        raise FileNotFoundError(f"{key}={path!r} does not exist: give a {', '.join(FORMATS)} file.")
    if Path(path).suffix.lower() not in FORMATS:
        raise ValueError(f"{key}={path!r} is none of {', '.join(FORMATS)}: convert it first.")
    try:
        mesh = trimesh.load_mesh(found, process=False)
    except Exception as error:  # each format's reader has its own
        raise ValueError(f"{key}={path!r} cannot be read ({error}): export it again.") from error
    mesh = trimesh.Trimesh(mesh.vertices, getattr(mesh, "faces", None), process=False)
    mesh.remove_unreferenced_vertices()
    if not len(mesh.faces) or not np.isfinite(mesh.vertices).all() or not mesh.extents.any():
        raise ValueError(f"{key}={path!r} holds no surface: give a file with triangles.")
    return mesh


def to_world(
    vertices: Float[np.ndarray, "N 3"], up: str, front: str, radius: float
) -> Float[np.ndarray, "N 3"]:
    """z up and the front towards +x, as threestudio has it; in the middle of a ball that it fills.

    Args:
        up, front: of `AXES`, at right angles: the file's.
        radius: of the ball, which the vertex that is farthest from the bounding box's centre meets.
    """
    z, x = AXES[up], AXES[front]
    vertices = vertices @ np.stack([x, np.cross(z, x), z], axis=1)
    vertices = vertices - (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    return vertices * (radius / np.linalg.norm(vertices, axis=1).max())
