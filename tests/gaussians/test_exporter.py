"""Gaussians in files: what a viewer of them would draw is what the run draws."""

import io
import json
import struct

import numpy as np
import pytest
import threestudio
import torch
import trimesh
from threestudio_jointdreamer.data.cameras import look_at, orbit
from threestudio_jointdreamer.gaussians.rasterizer import Gaussians, rasterize

SIZE, N = 24, 20


@pytest.fixture(scope="module")
def asset():
    """Gaussians of all shapes, one of them transparent, and the files made of them."""
    start = {"capacity": 30, "n_init": N, "init_opacity": 0.8}
    asset = threestudio.find("jointdreamer-gaussians")(start)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name in ("log_scales", "rotations", "opacities", "colors"):
            parameter = getattr(asset, name)
            parameter += torch.randn(parameter.shape, generator=generator)
        asset.opacities[3] = -7.0
    exporter = threestudio.find("jointdreamer-gaussian-exporter")
    outputs = exporter({"fmt": "ply,glb"}, geometry=asset, material=None, background=None)()
    return asset, {output.save_name: output.params["data"] for output in outputs}


def from_ply(data):
    """By the conventions of 3D Gaussian Splatting's viewers."""
    vertices = trimesh.load(io.BytesIO(data), file_type="ply").metadata["_ply_raw"]["vertex"][
        "data"
    ]

    def columns(*names):
        return torch.from_numpy(np.stack([vertices[name] for name in names], axis=1)).float()

    rgb = 0.5 + 0.28209479177387814 * columns("f_dc_0", "f_dc_1", "f_dc_2")
    scales = columns("scale_0", "scale_1", "scale_2").exp()
    rotations = columns("rot_0", "rot_1", "rot_2", "rot_3")
    opacities = columns("opacity")[:, 0].sigmoid()
    return Gaussians(columns("x", "y", "z"), scales, rotations, opacities), rgb


def from_glb(data):
    """By the extension's text; quaternions are (x, y, z, w) of length 1."""
    length = struct.unpack("<I", data[12:16])[0]
    document, blob = json.loads(data[20 : 20 + length]), data[28 + length :]
    assert document["extensionsUsed"] == ["KHR_gaussian_splatting"]
    (primitive,) = document["meshes"][0]["primitives"]
    assert primitive["mode"] == 0
    extension = primitive["extensions"]["KHR_gaussian_splatting"]
    assert extension == {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}

    def column(name):
        accessor = document["accessors"][primitive["attributes"][name]]
        view = document["bufferViews"][accessor["bufferView"]]
        raw = blob[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        kind = {5126: "<f4", 5121: "u1"}[accessor["componentType"]]
        values = np.frombuffer(raw, kind).reshape(accessor["count"], -1)
        return torch.from_numpy(values.astype(np.float32))

    def own(name):
        return column(f"KHR_gaussian_splatting:{name}")

    rgb = 0.5 + 0.28209479177387814 * own("SH_DEGREE_0_COEF_0")
    fallback = column("COLOR_0")[:, :3] / 255
    srgb = torch.where(
        fallback <= 0.0031308, 12.92 * fallback, 1.055 * fallback ** (1 / 2.4) - 0.055
    )
    assert (srgb - rgb).abs().max() < 0.02  # what other readers show
    torch.testing.assert_close(own("ROTATION").norm(dim=1), torch.ones(N - 1))
    rotations = own("ROTATION")[:, [3, 0, 1, 2]]
    return Gaussians(column("POSITION"), own("SCALE"), rotations, own("OPACITY")[:, 0]), rgb


def picture(gaussians, rgb, up, front):
    """From the right of the front and above, of something with these axes."""
    side = torch.linalg.cross(up, front)
    axes = torch.stack([front, side, up], dim=1)  # of the world's x, y and z
    position = orbit(torch.tensor([25.0]), torch.tensor([40.0]), torch.tensor([2.0])) @ axes.T
    c2w = look_at(position, torch.zeros(1, 3), up[None])
    w2c = torch.linalg.inv(c2w * torch.tensor([1.0, -1.0, -1.0, 1.0]))
    intrinsics = torch.tensor([[[30.0, 0, SIZE / 2], [0, 30.0, SIZE / 2], [0, 0, 1]]])
    return rasterize(gaussians, rgb[None], w2c, intrinsics, SIZE, SIZE)[0]


@pytest.mark.parametrize(("name", "read"), [("model.ply", from_ply), ("model.glb", from_glb)])
def test_read_back_and_seen_from_the_turned_camera_it_is_the_same_picture(asset, name, read):
    geometry, files = asset
    x, y, z = torch.eye(3)
    wanted = picture(geometry.gaussians(), geometry.rgb(), up=z, front=x)
    gaussians, rgb = read(files[name])
    assert len(rgb) == N - 1 and wanted.std() > 0.1
    torch.testing.assert_close(picture(gaussians, rgb, up=y, front=z), wanted, atol=1e-4, rtol=0)
    assert (picture(gaussians, rgb, up=z, front=x) - wanted).abs().max() > 0.1


def test_an_exported_ply_starts_another_run_as_it_was(asset, tmp_path):
    geometry, files = asset
    (tmp_path / "model.ply").write_bytes(files["model.ply"])
    again = type(geometry)({"capacity": 30, "init": str(tmp_path / "model.ply")})
    x, _, z = torch.eye(3)
    pictures = [picture(each.gaussians(), each.rgb(), up=z, front=x) for each in (geometry, again)]
    torch.testing.assert_close(*pictures, atol=1e-4, rtol=0)


def test_what_it_cannot_write_is_told(asset):
    geometry, _ = asset
    exporter = threestudio.find("jointdreamer-gaussian-exporter")
    with pytest.raises(ValueError, match="'splat' is unknown.*ply,glb"):
        exporter({"fmt": "splat"}, geometry=geometry, material=None, background=None)
    volume = threestudio.find("implicit-volume")()
    with pytest.raises(ValueError, match=r"system\.exporter_type=.*jointdreamer-mesh-exporter"):
        exporter({}, geometry=volume, material=None, background=None)()
    empty = type(geometry)({"capacity": 30, "n_init": N, "init_opacity": 0.001})
    with pytest.raises(ValueError, match="transparent"):
        exporter({}, geometry=empty, material=None, background=None)()
    mesh = threestudio.find("jointdreamer-mesh-exporter")
    with pytest.raises(ValueError, match="jointdreamer-gaussian-exporter"):
        mesh({}, geometry=geometry, material=None, background=None)()
