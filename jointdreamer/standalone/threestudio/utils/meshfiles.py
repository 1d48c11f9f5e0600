"""Meshes as Wavefront OBJ/MTL text."""

import numpy as np

MATERIAL = "default"
MTL = f"newmtl {MATERIAL}\nKa 0.0 0.0 0.0\nKd 1.0 1.0 1.0\nKs 0.0 0.0 0.0\n"  # plain white


def obj_text(
    v_pos: np.ndarray,
    t_pos_idx: np.ndarray,
    v_nrm: np.ndarray | None = None,
    v_rgb: np.ndarray | None = None,
    mtllib: str | None = None,
) -> str:
    """An OBJ file.

    Args:
        v_pos: [Nv 3]; with `v_rgb` [Nv 3] in 0..1, colours follow the coordinates.
        t_pos_idx: [Nf 3], from 0; also the normals' indices.
        v_nrm: [Nv 3].
        mtllib: the file beside it that holds `MTL`.
    """
    lines = []
    if mtllib is not None:
        lines += [f"mtllib {mtllib}", "g object", f"usemtl {MATERIAL}"]
    lines += _rows("v", v_pos if v_rgb is None else np.concatenate([v_pos, v_rgb], axis=1))
    if v_nrm is not None:
        lines += _rows("vn", v_nrm)
    for corners in t_pos_idx + 1:
        words = [f"{index}//{'' if v_nrm is None else index}" for index in corners]
        lines.append("f " + " ".join(words))
    return "\n".join(lines) + "\n"


def _rows(word: str, numbers: np.ndarray) -> list[str]:
    return [" ".join([word, *(str(float(number)) for number in row)]) for row in numbers]
