"""A given mesh: how it is read, drawn, moved, and exported."""

from dataclasses import replace
from math import cos, radians, sin
from pathlib import Path

import numpy as np
import pytest
import threestudio
import torch
import trimesh
from helpers.tiny_run import logged, tiny_config
from omegaconf import OmegaConf
from threestudio_jointdreamer.exporters.mesh_exporter import TO_Y_UP
from threestudio_jointdreamer.meshes.geometry import RegularisedMesh
from threestudio_jointdreamer.meshes.renderer import on_triangles, subpixel_rays

from jointdreamer.host.launcher import run
from jointdreamer.tinyworld.captions import parse
from jointdreamer.tinyworld.creatures import build
from jointdreamer.tinyworld.renderer import render
from jointdreamer.viewer.rendering import Viewpoint

pytest.importorskip("embreex", reason="embreex, which traces rays, is missing.")
SMALL = {"n_levels": 2, "base_resolution": 4, "log2_hashmap_size": 8}
SMALL |= {"otype": "HashGrid", "n_features_per_level": 2, "per_level_scale": 2.0}
SHIPPED = Path(__file__).resolve().parents[2] / "load" / "tiny" / "meshes" / "bear.glb"
KINDS = {"geometry": "", "renderer": "-renderer", "exporter": "-exporter"}
BEAR = "a green bear wearing a red hat and a blue backpack"


def geometry_of(path, **changes):
    cfg = {"path": str(path), "pos_encoding_config": SMALL, **changes}
    return threestudio.find("jointdreamer-mesh")(cfg)


def renderer_of(geometry, backend="embree", **changes):
    material = threestudio.find("no-material")({"requires_normal": True})
    background = threestudio.find("solid-color-background")({"color": [1.0, 0.0, 0.0]})
    parts = {"geometry": geometry, "material": material, "background": background}
    return threestudio.find("jointdreamer-mesh-renderer")({"backend": backend, **changes}, **parts)


def view_from(azimuth_deg, distance=3.0, size=64):
    x, y = (distance * f(radians(azimuth_deg)) for f in (cos, sin))
    return Viewpoint((x, y, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 1.0), radians(40), 1.0).batch(size)


@pytest.fixture
def ball(tmp_path):
    path = tmp_path / "ball.stl"
    trimesh.creation.icosphere(subdivisions=4, radius=7.0).apply_translation([5, 5, 5]).export(path)
    return path


@pytest.mark.parametrize("fmt", ["glb", "obj", "ply", "stl"])
def test_objects_are_joined_stand_upright_and_look_along_x(tmp_path, fmt):
    scene = trimesh.Scene([trimesh.creation.box([2, 2, 2])])
    ahead = trimesh.transformations.translation_matrix([0.0, 0.0, 3.0])  # to the file's front
    scene.add_geometry(trimesh.creation.box([1, 0.5, 4]), transform=ahead)
    (scene if fmt in ("glb", "obj") else scene.to_mesh()).export(tmp_path / f"it.{fmt}")
    geometry = geometry_of(tmp_path / f"it.{fmt}", size=0.5)
    assert geometry.vertices.shape == (16, 3) and geometry.faces.shape == (24, 3)
    low, high = geometry.vertices.amin(dim=0), geometry.vertices.amax(dim=0)
    torch.testing.assert_close([low, high / high[1]], [-high, torch.tensor([3.0, 1.0, 1.0])])
    assert geometry.vertices.norm(dim=1).max().item() == pytest.approx(0.5)
    nose = geometry.vertices[geometry.vertices[:, 0] > 0.99 * high[0]]
    assert len(nose) == 4 and nose[:, 1].max() > 1.9 * nose[:, 2].max()
    turned = geometry_of(tmp_path / f"it.{fmt}", up="+z", front="-y").vertices
    assert (turned.amax(dim=0) - turned.amin(dim=0)).argmax() == 2


def test_what_is_no_mesh_is_told(tmp_path, ball):
    (tmp_path / "it.txt").write_text("")
    (tmp_path / "broken.glb").write_bytes(b"nothing")
    (tmp_path / "points.obj").write_text("v 0 0 0\nv 0 0 1\n")
    told = {
        "gone.glb": "does not exist: give a .glb",
        "it.txt": "is none of .glb",
        "broken.glb": "cannot be read .*: export it again",
        "points.obj": "holds no surface: give a file with triangles",
    }
    for name, text in told.items():
        key = rf"system\.geometry\.path=.*{name}.* {text}"
        with pytest.raises((ValueError, FileNotFoundError), match=key):
            geometry_of(tmp_path / name)
    with pytest.raises(ValueError, match="5120 faces: reduce them to system.geometry.max_faces=9"):
        geometry_of(ball, max_faces=9)
    with pytest.raises(ValueError, match=r"geometry\.up=\+z and front=-z are one axis"):
        geometry_of(ball, up="+z", front="-z")


def test_a_ball_is_where_and_as_large_as_it_is(ball):
    renderer = renderer_of(geometry_of(ball, size=0.8))
    renderer.geometry.forward = lambda points, **_: {"features": points}
    renderer.material.forward = lambda features, **_: features  # colours say where they are
    batch = view_from(90.0)
    out = renderer(**batch)
    share = torch.pi * (0.8 / (9 - 0.64) ** 0.5) ** 2 / (2 * np.tan(radians(20))) ** 2
    assert out["opacity"].mean().item() == pytest.approx(share, rel=0.01)
    seen, some = out["opacity"][..., 0] == 1, out["opacity"][..., 0] > 0
    points, normals = out["comp_rgb"][seen], 2 * out["comp_normal"][seen] - 1
    assert (points.norm(dim=-1) - 0.8).abs().max() < 0.01
    torch.testing.assert_close(normals, points / 0.8, atol=0.05, rtol=0)
    middle = out["comp_rgb"][0, 31:33, 31:33].mean(dim=(0, 1))
    torch.testing.assert_close(middle, torch.tensor([0, 0.8, 0]), atol=5e-3, rtol=0)
    assert (out["comp_rgb"][~some] == torch.tensor([1.0, 0, 0])).all()
    rows = {key: batch[key][:, ::4] for key in ("rays_o", "rays_d")}  # system.render_chunk's
    torch.testing.assert_close(renderer(**batch | rows)["comp_rgb"], out["comp_rgb"][:, ::4])
    coarse, fine = view_from(30.0, size=4), view_from(30.0, size=12)
    size = 2 * torch.tan(coarse["fovy"] / 2) / 4
    rays = subpixel_rays(coarse["rays_d"], coarse["c2w"], size, 3)
    torch.testing.assert_close(rays, fine["rays_d"])


def test_vertices_move_what_a_ray_meets_as_differences_say():
    v_pos, corners = torch.randn(9, 3, dtype=torch.float64), torch.arange(9).view(3, 3)
    origins = torch.full((3, 3), 4.0, dtype=torch.float64)
    dirs = torch.nn.functional.normalize(v_pos[corners].mean(dim=1) - origins, dim=-1)

    def meets(v_pos):
        return on_triangles(RegularisedMesh(v_pos, corners), corners, origins, dirs)

    torch.testing.assert_close(meets(v_pos)[0], v_pos[corners].mean(dim=1))
    assert torch.autograd.gradcheck(meets, v_pos.requires_grad_())


def test_regularisers_of_a_mesh_are_threestudios(ball):
    mesh = geometry_of(ball).isosurface()
    solid = trimesh.Trimesh(mesh.v_pos.numpy(), mesh.t_pos_idx.numpy(), process=False)
    ends = mesh.v_nrm[torch.from_numpy(solid.edges_unique.copy())]
    expected = 1 - (ends[:, 0] * ends[:, 1]).sum(dim=1).mean()
    torch.testing.assert_close(mesh.normal_consistency(), expected, atol=1e-6, rtol=1e-4)
    pulls = [solid.vertices[i] - solid.vertices[j] for i, j in enumerate(solid.vertex_neighbors)]
    lengths = [np.linalg.norm(each.sum(axis=0)) for each in pulls]
    assert mesh.laplacian().item() == pytest.approx(np.mean(lengths), rel=1e-4)


def assert_exported(vertices, data):
    """A glb has exactly these vertices, with its own axes."""
    written = trimesh.load_mesh(trimesh.util.wrap_as_stream(data), file_type="glb", process=False)
    got = np.unique(written.vertices.astype(np.float32), axis=0)
    assert np.array_equal(got, np.unique(vertices.numpy() @ TO_Y_UP.T.astype(np.float32), axis=0))


def test_the_shipped_bear_is_the_tiny_worlds_and_is_exported_bit_for_bit():
    geometry = geometry_of(SHIPPED, size=0.9231)
    batch = view_from(60.0, distance=2.75)
    drawn = renderer_of(geometry)(**batch)["opacity"][..., 0] > 0.5
    middle = trimesh.load_mesh(SHIPPED).bounds.mean(axis=0) @ TO_Y_UP  # now the origin
    bear = build(parse(BEAR))
    bear = replace(bear, center=bear.center - torch.tensor(middle).float())
    pink = torch.tensor([[1.0, 0.0, 1.0]])
    true = render(bear, batch["c2w"], torch.tensor([40.0]), pink) - pink[..., None, None]
    true = true.abs().amax(dim=1) > 0.5
    assert (drawn & true).sum() / (drawn | true).sum() > 0.98
    exporter = threestudio.find("jointdreamer-mesh-exporter")
    material = threestudio.find("no-material")({})
    (file,) = exporter({"texture_size": 64}, geometry, material, None)()
    assert_exported(geometry.vertices, file.params["data"])


def test_a_free_mesh_trains_and_is_exported_as_it_is_then(tmp_path, ball, sd_folder, mv_folder):
    cfg = tiny_config(sd_folder, mv_folder, tmp_path)
    system, network = cfg["system"], cfg["system"]["geometry"]["mlp_network_config"]
    system |= {f"{part}_type": f"jointdreamer-mesh{end}" for part, end in KINDS.items()}
    system["geometry"] = {"path": str(ball), "fix_geometry": False, "pos_encoding_config": SMALL}
    system["geometry"]["mlp_network_config"] = network
    system |= {"renderer": {}, "geometry_fading": None, "exporter": {"texture_size": 16}}
    system["loss"] = {"lambda_sds": 1.0, "lambda_laplacian_smoothness": 1.0}
    system["optimizer"]["params"] = {"geometry.vertex_offsets": {"lr": 1e-3}}
    OmegaConf.save(OmegaConf.create(cfg), tmp_path / "config.yaml")
    small = ["trainer.max_steps=3", "trainer.val_check_interval=3", "data.n_test_views=2"]
    result = run(["--config", str(tmp_path / "config.yaml"), "--train", *small])
    assert set(logged(result["trial_dir"])["train/loss_laplacian_smoothness"]) == {0, 1, 2}
    state = torch.load(result["ckpt"], weights_only=True)["state_dict"]
    moved = state["geometry.vertex_offsets"]
    assert 0 < moved.abs().max() <= 3.1e-3
    run(["--export", f"resume={result['trial_dir']}"])
    (file,) = Path(result["save_dir"]).glob("it3-export/*.glb")
    assert_exported(state["geometry.vertices"] + moved, file.read_bytes())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="nvdiffrast needs a GPU")
def test_nvdiffrast_draws_what_rays_do(tmp_path):
    pytest.importorskip("nvdiffrast", reason="nvdiffrast is missing.")
    # large triangles: nvdiffrast smooths no silhouette of those that are thinner than a pixel
    trimesh.creation.icosphere(subdivisions=1).export(tmp_path / "solid.stl")
    geometry = geometry_of(tmp_path / "solid.stl").cuda()
    batch = {k: v.cuda() if torch.is_tensor(v) else v for k, v in view_from(70.0).items()}
    kinds = {"embree": {"supersampling": 8}, "nvdiffrast": {}}
    kinds = [renderer_of(geometry, kind, **changes).cuda() for kind, changes in kinds.items()]
    traced, drawn = (renderer(**batch) for renderer in kinds)
    for key in ("comp_rgb", "opacity", "comp_normal"):
        assert (traced[key] - drawn[key]).abs().mean() < 5e-3, key
