"""`jointdreamer-gaussian-exporter`: PLY of 3D Gaussian Splatting, glTF with KHR_gaussian_splatting.

Files have y up and the asset's front (azimuth 0) towards +z, where the world has z up and +x.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import threestudio
from jaxtyping import Float
from threestudio.models.exporters.base import Exporter, ExporterOutput

from ..config_values import parse_fields
from ..exporters.mesh_exporter import TO_Y_UP
from .rasterizer import MIN_ALPHA

Y00 = 0.28209479177387814  # the spherical harmonic of degree 0: a colour is 0.5 + Y00 c
GLTF_NAME = "KHR_gaussian_splatting"
FIELDS = {  # of a PLY's vertices
    "positions": ("x", "y", "z"),
    "coefficients": ("f_dc_0", "f_dc_1", "f_dc_2"),
    "opacities": ("opacity",),  # before a sigmoid
    "log_scales": ("scale_0", "scale_1", "scale_2"),
    "rotations": ("rot_0", "rot_1", "rot_2", "rot_3"),  # w, x, y, z
}
Columns = dict[str, Float[np.ndarray, "N c"]]  # by the names of FIELDS


@threestudio.register("jointdreamer-gaussian-exporter")
class GaussianExporter(Exporter):
    """The Gaussians that can be seen.

    Raises:
        ValueError: when called, for a geometry of another kind, or if none can be seen.
    """

    @dataclass
    class Config(Exporter.Config):
        fmt: Annotated[str, ("ply", "glb", "ply,glb")] = "ply"
        save_name: Annotated[str, re.compile(r"[^/\\]+")] = "model"

        def __post_init__(self) -> None:
            parse_fields(self, "system.exporter")

    cfg: Config

    def __call__(self) -> list[ExporterOutput]:
        if not hasattr(self.geometry, "gaussians"):
            key = "system.exporter_type=jointdreamer-gaussian-exporter"
            raise ValueError(f"{key} writes Gaussians: use jointdreamer-mesh-exporter here.")
        gaussians = self.geometry.gaussians()
        seen = gaussians.opacities > MIN_ALPHA
        if not seen.any():
            raise ValueError("All Gaussians are transparent: export an earlier checkpoint.")
        columns = {
            "positions": gaussians.positions,
            "coefficients": (self.geometry.rgb() - 0.5) / Y00,
            "opacities": gaussians.opacities[:, None].clamp(max=1 - 1e-6).logit(),
            "log_scales": gaussians.scales.log(),
            "rotations": gaussians.rotations,
        }
        arrays = {name: x[seen].detach().double().cpu().numpy() for name, x in columns.items()}
        arrays, write = rotated(arrays, TO_Y_UP), {"ply": ply, "glb": glb}
        return [
            ExporterOutput(f"{self.cfg.save_name}.{fmt}", "bytes", {"data": write[fmt](arrays)})
            for fmt in self.cfg.fmt.split(",")
        ]


def rotated(columns: Columns, rotation: Float[np.ndarray, "3 3"]) -> Columns:
    """The same in rotated axes; the quaternions have length 1."""
    from scipy.spatial.transform import Rotation

    turned = Rotation.from_quat(columns["rotations"][:, [1, 2, 3, 0]])
    turned = (Rotation.from_matrix(rotation) * turned).as_quat()[:, [3, 0, 1, 2]]
    return {**columns, "positions": columns["positions"] @ rotation.T, "rotations": turned}


def ply(columns: Columns) -> bytes:
    """As 3D Gaussian Splatting's own code writes it, without harmonics of higher degrees."""
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(columns['positions'])}\n"
    header += "".join(f"property float {name}\n" for names in FIELDS.values() for name in names)
    data = np.concatenate([columns[name] for name in FIELDS], axis=1).astype("<f4")
    return header.encode() + b"end_header\n" + data.tobytes()


def glb(columns: Columns) -> bytes:
    """glTF 2.0 with Khronos' extension; readers that do not know it see coloured points."""
    import trimesh

    opacity = 1 / (1 + np.exp(-columns["opacities"]))
    srgb = (0.5 + Y00 * columns["coefficients"]).clip(0, 1)
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    rgba = np.round(255 * np.concatenate([linear, opacity], axis=1)).astype(np.uint8)
    attributes = {
        "ROTATION": columns["rotations"][:, [1, 2, 3, 0]],
        "SCALE": np.exp(columns["log_scales"]),
        "OPACITY": opacity,
        "SH_DEGREE_0_COEF_0": columns["coefficients"],
    }

    def add_attributes(buffers: dict[str, bytes], tree: dict[str, Any]) -> None:
        primitive = tree["meshes"][0]["primitives"][0]
        extension = {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
        tree["extensionsUsed"], primitive["extensions"] = [GLTF_NAME], {GLTF_NAME: extension}
        for name, values in attributes.items():
            kind = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}[values.shape[1]]
            form = {"componentType": 5126, "count": len(values), "type": kind}  # of float32
            primitive["attributes"][f"{GLTF_NAME}:{name}"] = len(tree["accessors"])
            tree["accessors"][name] = {"bufferView": len(buffers), **form}
            buffers[name] = values.astype("<f4").tobytes()

    scene = trimesh.Scene([trimesh.PointCloud(columns["positions"], rgba)])
    return trimesh.exchange.gltf.export_glb(scene, buffer_postprocessor=add_attributes)
