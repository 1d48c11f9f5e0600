"""jointdreamer-mesh-exporter: the surface that is taken, the colours on it, the files."""

import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import threestudio
import torch
import trimesh
from PIL import Image
from threestudio_jointdreamer.exporters.mesh_exporter import TO_Y_UP
from threestudio_jointdreamer.exporters.texture import rasterize

RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


class Balls:
    """A density of 200 in balls (x, y, z, radius): red, blue in the inner half and where y > 0."""

    def __init__(self, *balls, noise: float = 0.0, **cfg) -> None:
        self.balls = torch.tensor(balls or [(0.0, 0.0, 0.0, 0.5)])
        self.noise = noise
        defaults = {"radius": 1.0, "isosurface_resolution": 32, "isosurface_threshold": 25.0}
        self.cfg = SimpleNamespace(**defaults | cfg)
        self.bbox = self.cfg.radius * torch.tensor([[-1.0] * 3, [1.0] * 3])

    def _depth(self, points):
        """How deep inside of the nearest ball."""
        centers, radii = self.balls[:, :3], self.balls[:, 3]
        return (radii - (points[..., None, :] - centers).norm(dim=-1)).amax(dim=-1, keepdim=True)

    def forward_density(self, points):
        noise = self.noise * torch.rand(
            *points.shape[:-1], 1, generator=torch.Generator().manual_seed(len(points))
        )
        return 200 * torch.sigmoid(60 * self._depth(points)) * (noise < 0.3)

    def export(self, points):
        blue = (self._depth(points) > 0.25) | (points[..., 1:2] > 0)
        return {"features": torch.where(blue, torch.tensor(BLUE), torch.tensor(RED))}


class Sphere:
    """A geometry with a mesh of its own and no density."""

    cfg = SimpleNamespace(radius=1.0)
    bbox = torch.tensor([[-1.0] * 3, [1.0] * 3])

    def __init__(self, faces: bool = True) -> None:
        self.faces = faces

    def isosurface(self):
        mesh = trimesh.creation.icosphere(radius=0.5)
        faces = mesh.faces if self.faces else mesh.faces[:0]
        return SimpleNamespace(
            v_pos=torch.from_numpy(mesh.vertices).float(), t_pos_idx=torch.from_numpy(faces).long()
        )

    def export(self, points):
        return {"features": (points + 1) / 2}


MATERIAL = SimpleNamespace(export=lambda points, features: {"albedo": features})


def export(geometry, material=MATERIAL, **config) -> dict[str, bytes]:
    exporter = threestudio.find("jointdreamer-mesh-exporter")(
        {"texture_size": 64, **config}, geometry=geometry, material=material, background=None
    )
    outputs = exporter()
    assert {out.save_type for out in outputs} == {"bytes"}
    return {out.save_name: out.params["data"] for out in outputs}


def load(files: dict[str, bytes], name: str, folder) -> trimesh.Trimesh:
    for file, data in files.items():
        (folder / file).write_bytes(data)
    return trimesh.load(folder / name, force="mesh", process=False)


def color_at(mesh: trimesh.Trimesh, points) -> np.ndarray:
    """The texture's colours at the vertices nearest to `points`."""
    _, nearest = trimesh.proximity.ProximityQuery(mesh).vertex(points)
    visual = mesh.visual if mesh.visual.kind == "vertex" else mesh.visual.to_color()
    return np.asarray(visual.vertex_colors)[nearest, :3].astype(int)


def test_glb_is_the_shape_with_unit_normals_and_the_front_towards_z(tmp_path):
    body, nose = (0.0, 0.0, 0.0, 0.4), (0.4, 0.0, 0.0, 0.15)
    mesh = load(export(Balls(body, nose, isosurface_resolution=96)), "model.glb", tmp_path)
    assert mesh.bounds[1] == pytest.approx([0.4, 0.4, 0.55], abs=0.04)
    assert mesh.bounds[0] == pytest.approx([-0.4] * 3, abs=0.04)
    assert np.linalg.norm(mesh.vertex_normals, axis=1) == pytest.approx(1, abs=1e-3)
    outwards = (mesh.vertex_normals * mesh.vertices).sum(axis=1)
    assert (outwards > 0).mean() > 0.98
    assert mesh.visual.material.metallicFactor == 0 and mesh.visual.material.roughnessFactor == 1
    assert np.linalg.det(TO_Y_UP) == pytest.approx(1)  # no mirror


def test_the_texture_has_the_colours_that_a_render_sees(tmp_path):
    mesh = load(export(Balls()), "model.glb", tmp_path)
    right, left = [0.5, 0, 0], [-0.5, 0, 0]  # here +x is the asset's +y
    assert color_at(mesh, [right, left]).tolist() == [[0, 0, 255], [255, 0, 0]]
    assert (color_at(mesh, [[-0.4, 0.3, 0], [-0.3, 0, 0.4]]) == [255, 0, 0]).all()


def test_between_the_charts_the_texture_goes_on(tmp_path):
    load(export(Balls(), fmt="obj"), "model.obj", tmp_path)
    (texture,) = tmp_path.glob("*.png")
    colors = np.asarray(Image.open(texture)).reshape(-1, 3)
    assert colors.any(axis=1).all()  # nowhere black, which no point has


@pytest.mark.parametrize("extension", ["obj", "ply", "stl"])
def test_other_formats_have_the_same_shape(extension, tmp_path):
    files = export(Balls(), fmt=f"glb, {extension}", save_name="ball")
    mesh = load(files, f"ball.{extension}", tmp_path)
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.5**3, rel=0.1)
    if extension != "stl":
        assert color_at(mesh, [[0.5, 0, 0]]).tolist() == [[0, 0, 255]]


def test_what_floats_around_goes(tmp_path):
    speck = (0.8, 0.8, 0.8, 0.1)
    mesh = load(export(Balls((0.0, 0.0, 0.0, 0.5), speck)), "model.glb", tmp_path)
    assert np.abs(mesh.vertices).max() < 0.6


def test_pits_are_smoothed(tmp_path):
    def roughness(smoothing):
        mesh = load(export(Balls(noise=0.5), smoothing=smoothing), "model.glb", tmp_path)
        return np.linalg.norm(mesh.vertices, axis=1).std()

    assert roughness(1.5) < 0.6 * roughness(0.0)


def test_there_are_at_most_so_many_faces(tmp_path):
    mesh = load(export(Balls(), n_faces=500), "model.glb", tmp_path)
    assert 300 < len(mesh.faces) <= 500


def test_a_geometry_without_density_gives_its_own_mesh_and_colours(tmp_path):
    mesh = load(export(Sphere()), "model.glb", tmp_path)
    assert len(mesh.faces) == len(trimesh.creation.icosphere().faces)
    assert color_at(mesh, [[0.5, 0, 0]])[0] == pytest.approx([127, 191, 127], abs=6)


def test_a_material_without_albedo_is_white(tmp_path):
    material = SimpleNamespace(export=lambda points, features: {})
    mesh = load(export(Balls(), material), "model.glb", tmp_path)
    assert (np.asarray(mesh.visual.to_color().vertex_colors) == 255).all()


def test_what_the_border_cuts_is_closed_and_said(tmp_path, caplog):
    with caplog.at_level("WARNING"):
        files = export(Balls((0.7, 0.0, 0.0, 0.5)), fmt="stl")
    assert caplog.text.count("cut off") == 1 and "system.geometry.radius=1.0" in caplog.text
    mesh = load(files, "model.stl", tmp_path)
    mesh.merge_vertices()
    assert mesh.is_watertight and mesh.bounds[1, 2] == pytest.approx(1.0)
    caplog.clear()
    with caplog.at_level("WARNING"):
        export(Balls())
    assert not caplog.text


def test_all_formats_at_once(tmp_path):
    pytest.importorskip("pxr", reason="usd-core writes usdz")
    files = export(Balls(), fmt="glb,obj,ply,stl,usdz", save_name="ball")
    assert {Path(name).suffix for name in files} == {
        *(".glb", ".obj", ".mtl", ".png", ".ply", ".stl", ".usdz")
    }


def test_usdz_is_the_glb_by_another_name_and_complies(tmp_path):
    pytest.importorskip("pxr", reason="usd-core writes usdz")
    from pxr import Usd, UsdGeom, UsdShade, UsdValidation

    files = export(Balls((0.0, 0.0, 0.0, 0.4), (0.4, 0.0, 0.0, 0.15)), fmt="glb,usdz")
    glb = load(files, "model.glb", tmp_path)
    stage = Usd.Stage.Open(str(tmp_path / "model.usdz"))
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    found = UsdValidation.ValidationContext(validators).Validate(stage)
    assert [error.GetErrorAsString() for error in found] == []
    assert UsdGeom.GetStageUpAxis(stage) == "Y" and UsdGeom.GetStageMetersPerUnit(stage) == 1
    mesh = UsdGeom.Mesh(stage.GetPrimAtPath("/Asset/Mesh"))
    assert np.asarray(mesh.GetPointsAttr().Get()) == pytest.approx(glb.vertices, abs=1e-6)
    faces = np.asarray(mesh.GetFaceVertexIndicesAttr().Get()).reshape(-1, 3)
    assert (faces == glb.faces).all()
    uv = UsdGeom.PrimvarsAPI(mesh).GetPrimvar("st").Get()
    assert np.asarray(uv) == pytest.approx(glb.visual.uv, abs=1e-6)
    texture = UsdShade.Shader(stage.GetPrimAtPath("/Asset/Material/Texture"))
    inside = texture.GetInput("file").Get().resolvedPath.split("[")[1].rstrip("]")
    with zipfile.ZipFile(tmp_path / "model.usdz") as package:
        picture = np.asarray(Image.open(package.open(inside)))
    assert (picture == np.asarray(glb.visual.material.baseColorTexture)).all()


def test_usdz_without_openusd_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pxr", None)
    with pytest.raises(ValueError, match="fmt=usdz.*pip install usd-core"):
        export(Balls(), fmt="glb,usdz")


@pytest.mark.parametrize(
    ("geometry", "config", "message"),
    [
        (Balls(), {"fmt": "fbx"}, "system.exporter.fmt='fbx'"),
        (Balls(), {"fmt": "glb,usd"}, "'usd' is unknown"),
        (Balls(isosurface_threshold=1e4), {}, "system.geometry.isosurface_threshold"),
        (Balls((0.0, 0.0, 0.0, 0.07)), {"smoothing": 4.0}, "system.exporter.smoothing=4.0"),
        (Balls((5.0, 5.0, 5.0, 0.1)), {}, "system.geometry.isosurface_threshold"),
        (Balls((float("nan"), 0.0, 0.0, 0.5)), {}, "not finite"),
        (Sphere(faces=False), {}, "isosurface_outlier_n_faces_threshold"),
    ],
)
def test_what_cannot_be_exported_is_said_with_the_key(geometry, config, message):
    with pytest.raises(ValueError, match=message):
        export(geometry, **config)


def test_rasterize_weights_are_barycentric_and_cover_each_pixel_once():
    triangles = np.array([[[0, 0], [1, 0], [0, 1]], [[1, 0], [1, 1], [0, 1]], [[0.5, 0.5]] * 3])
    face, weights = rasterize(triangles.astype(float), 8)
    assert set(np.unique(face)) == {0, 1} and abs((face == 0).sum() - 32) <= 4
    centers = (np.stack(np.meshgrid(np.arange(8), np.arange(8)), axis=-1) + 0.5) / 8
    assert np.einsum("yxk,yxkc->yxc", weights, triangles[face]) == pytest.approx(centers)
