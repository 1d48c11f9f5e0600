"""Marching cubes, and what a mesh knows."""

import math

import pytest
import torch
import trimesh
from threestudio.models.isosurface import MarchingCubeCPUHelper
from threestudio.models.mesh import Mesh


def ball(grid: torch.Tensor, radius: float, center: float = 0.5) -> torch.Tensor:
    """Distance to a sphere [N 1], negative inside."""
    return (grid - center).norm(dim=1, keepdim=True) - radius


def as_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.v_pos.numpy(), mesh.t_pos_idx.numpy(), process=False)


@pytest.fixture(scope="module")
def helper():
    return MarchingCubeCPUHelper(49)


def test_grid_covers_the_unit_cube_with_z_fastest(helper):
    grid = helper.grid_vertices
    assert grid.shape == (49**3, 3)
    torch.testing.assert_close(grid[1], torch.tensor([0.0, 0.0, 1 / 48]))
    torch.testing.assert_close(grid[49], torch.tensor([0.0, 1 / 48, 0.0]))
    assert grid[0].tolist() == [0.0] * 3 and grid[-1].tolist() == [1.0] * 3


def test_sphere_has_its_volume_area_and_outward_faces(helper):
    mesh = helper(ball(helper.grid_vertices, 0.3))
    reference = as_trimesh(mesh)
    assert reference.is_watertight
    assert reference.volume == pytest.approx(4 / 3 * math.pi * 0.3**3, rel=0.01)
    assert reference.area == pytest.approx(4 * math.pi * 0.3**2, rel=0.01)
    radii = (mesh.v_pos - 0.5).norm(dim=1)
    torch.testing.assert_close(radii, torch.full_like(radii, 0.3), atol=1e-3, rtol=0)
    outward = ((mesh.v_pos - 0.5) / radii[:, None] * mesh.v_nrm).sum(1)
    assert outward.min() > 0.99


def test_field_without_a_surface_gives_an_empty_mesh(helper):
    for level in (torch.ones(49**3, 1), -torch.ones(49**3, 1), torch.zeros(49**3, 1)):
        mesh = helper(level)
        assert mesh.v_pos.shape == (0, 3) and mesh.t_pos_idx.shape == (0, 3)
        assert mesh.remove_outlier(0.1) is mesh


def test_field_that_is_not_finite_is_named(helper):
    with pytest.raises(ValueError, match="not finite.*diverged"):
        helper(torch.full((49**3, 1), float("nan")))


@pytest.mark.parametrize(
    ("threshold", "parts"), [(0.01, 2), (0.5, 1), (10, 2), (100_000, 0), (0, 2)]
)
def test_small_parts_are_removed(helper, threshold, parts):
    grid = helper.grid_vertices
    level = torch.minimum(ball(grid, 0.2, 0.35), ball(grid, 0.05, 0.85))
    mesh = helper(level).remove_outlier(threshold)
    assert as_trimesh(mesh).body_count == parts if parts else len(mesh.t_pos_idx) == 0
    if parts:
        volume = 4 / 3 * math.pi * (0.2**3 + (0.05**3 if parts == 2 else 0))
        assert as_trimesh(mesh).volume == pytest.approx(volume, rel=0.02)
        assert mesh.t_pos_idx.max() == len(mesh.v_pos) - 1


def test_normals_are_weighted_by_area_and_unused_vertices_point_up():
    """Two triangles share an edge: one of area 1/2 facing +z, one of area 1 facing +x."""
    v_pos = torch.tensor(
        [[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, -2], [5, 5, 5]], requires_grad=True
    )
    mesh = Mesh(v_pos, torch.tensor([[0, 1, 2], [2, 3, 0]]))
    v_nrm = mesh.v_nrm
    face = torch.linalg.cross(v_pos[3] - v_pos[2], v_pos[0] - v_pos[2])
    shared = torch.tensor([0.0, 0, 1]) + face
    torch.testing.assert_close(v_nrm[0], shared / shared.norm())
    torch.testing.assert_close(v_nrm[1], torch.tensor([0.0, 0, 1]))
    torch.testing.assert_close(v_nrm[3], face / face.norm())
    torch.testing.assert_close(v_nrm[4], torch.tensor([0.0, 0, 1]))
    v_nrm[0].sum().backward()
    assert v_pos.grad.isfinite().all() and v_pos.grad[3].any()


def test_colours_must_be_one_for_each_vertex():
    mesh = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))
    assert mesh.v_rgb is None
    with pytest.raises(ValueError, match="2 vertex colours for 3 vertices"):
        mesh.set_vertex_color(torch.zeros(2, 3))
    mesh.set_vertex_color(torch.zeros(3, 3))
    assert mesh.v_rgb.shape == (3, 3)
