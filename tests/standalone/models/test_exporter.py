"""The mesh exporter: files that other programs read, with colours."""

from types import SimpleNamespace

import numpy as np
import pytest
import threestudio
import torch
import trimesh
from threestudio.models.isosurface import MarchingCubeCPUHelper
from threestudio.models.mesh import Mesh
from threestudio.utils.saving import SaverMixin


class Ball:
    """A geometry: a sphere of radius 0.5 around the origin; its features are the positions."""

    def __init__(self, radius: float = 0.5) -> None:
        self.radius = radius
        self.batches: list[int] = []

    def isosurface(self) -> Mesh:
        helper = MarchingCubeCPUHelper(24)
        points = helper.grid_vertices * 2 - 1
        mesh = helper(points.norm(dim=1, keepdim=True) - self.radius)
        mesh.v_pos = mesh.v_pos * 2 - 1
        return mesh

    def export(self, points: torch.Tensor) -> dict[str, torch.Tensor]:
        self.batches.append(len(points))
        return {"features": points}


class Painted:
    """A material: red where x > 0, blue elsewhere."""

    def export(self, points: torch.Tensor, features: torch.Tensor) -> dict[str, torch.Tensor]:
        assert torch.equal(points, features)
        red = (points[:, :1] > 0).float()
        return {"albedo": torch.cat([red, torch.zeros_like(red), 1 - red], dim=1)}


@pytest.fixture
def export(tmp_path):
    """Exports and saves as a system does; returns the folder."""
    saver = SaverMixin()
    saver.set_save_dir(str(tmp_path))

    def run(geometry=None, material=None, **config):
        exporter = threestudio.find("mesh-exporter")(
            config,
            geometry=geometry or Ball(),
            material=material or Painted(),
            background=SimpleNamespace(),
        )
        for out in exporter():
            getattr(saver, f"save_{out.save_type}")(out.save_name, **out.params)
        return tmp_path

    return run


def test_obj_has_the_shape_and_the_colours(export):
    folder = export(fmt="obj", save_name="ball")
    assert [path.name for path in folder.iterdir()] == ["ball.obj"]
    rows = [r.split() for r in (folder / "ball.obj").read_text().splitlines()]
    vertices = np.array([r[1:] for r in rows if r[0] == "v"], dtype=float)
    assert vertices.shape[1] == 6
    np.testing.assert_allclose(np.linalg.norm(vertices[:, :3], axis=1), 0.5, atol=5e-3)
    np.testing.assert_array_equal(vertices[:, 3], vertices[:, 0] > 0)
    np.testing.assert_array_equal(vertices[:, 5], vertices[:, 0] <= 0)
    mesh = trimesh.load(folder / "ball.obj", process=False)
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.5**3, rel=0.03)


def test_default_is_obj_with_mtl_as_in_threestudio(export):
    folder = export()
    assert sorted(path.name for path in folder.iterdir()) == ["model.mtl", "model.obj"]
    text = (folder / "model.obj").read_text()
    assert "mtllib model.mtl" in text
    assert len(text.split("\nv ", 2)[1].split()) == 6  # colours for programs that read them


def test_normals_are_saved_if_asked(export):
    text = (export(fmt="obj", save_normal=True) / "model.obj").read_text()
    lines = text.splitlines()
    vertices = [line for line in lines if line.startswith("v ")]
    normals = [line for line in lines if line.startswith("vn ")]
    assert len(normals) == len(vertices) > 0


def test_vertices_are_coloured_in_chunks(export, monkeypatch):
    monkeypatch.setattr("threestudio.models.exporters.mesh_exporter.CHUNK", 100)
    geometry = Ball()
    text = (export(geometry, fmt="obj") / "model.obj").read_text()
    assert max(geometry.batches) == 100 and sum(geometry.batches) == text.count("v ")


def test_material_without_albedo_gives_a_mesh_without_colours(export, caplog):
    class Glass:
        def export(self, points, features):
            return {}

    with caplog.at_level("WARNING"):
        folder = export(material=Glass(), fmt="obj")
    assert "no albedo" in caplog.text
    assert len((folder / "model.obj").read_text().splitlines()[0].split()) == 4


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"save_uv": True}, "system.exporter.save_uv=true needs a rasterizer"),
        ({"save_texture": True}, "system.exporter.save_texture=true needs a rasterizer"),
        ({"format": "glb"}, "format"),
    ],
)
def test_mistakes_are_named(export, config, message):
    with pytest.raises(ValueError, match=message):
        export(**config)


def test_no_surface_is_an_error_that_names_the_threshold(export, tmp_path):
    with pytest.raises(ValueError, match="system.geometry.isosurface_threshold"):
        export(Ball(radius=9.0), fmt="obj")
    assert not list(tmp_path.iterdir())
