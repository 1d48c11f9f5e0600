"""Meshes as Wavefront OBJ/MTL text and as binary glTF."""

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


def glb_bytes(
    v_pos: np.ndarray,
    t_pos_idx: np.ndarray,
    v_rgb: np.ndarray | None = None,
    v_nrm: np.ndarray | None = None,
) -> bytes:
    """A binary glTF file.

    The scene is turned from z up (here) to y up (glTF). Colours (sRGB, 0..1) are stored linear, as
    glTF 2.0 section 3.7.2.1 wants COLOR_0, on a rough non-metal: the default material is a mirror.
    """
    import trimesh

    to_y_up = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
    mesh = trimesh.Trimesh(
        vertices=v_pos @ to_y_up.T,
        faces=t_pos_idx,
        vertex_normals=None if v_nrm is None else v_nrm @ to_y_up.T,
        process=False,
    )
    if v_rgb is not None:
        linear = _srgb_to_linear(np.clip(v_rgb, 0.0, 1.0))
        rgba = np.concatenate([linear, np.ones((len(v_rgb), 1))], axis=1)
        mesh.visual = trimesh.visual.ColorVisuals(
            mesh, vertex_colors=np.round(rgba * 255).astype(np.uint8)
        )

    def set_material(tree: dict) -> None:
        surface = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
        tree["materials"] = [{"pbrMetallicRoughness": surface, "doubleSided": True}]
        for part in tree["meshes"]:
            for primitive in part["primitives"]:
                primitive["material"] = 0

    return trimesh.exchange.gltf.export_glb(
        trimesh.Scene(mesh), include_normals=v_nrm is not None, tree_postprocessor=set_material
    )


def _srgb_to_linear(rgb: np.ndarray) -> np.ndarray:
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
