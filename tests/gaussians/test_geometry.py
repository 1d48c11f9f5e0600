"""Gaussians as a geometry: starts, densification, and a run that is killed across one."""

import math
import signal

import pytest
import threestudio
import torch
import trimesh
from helpers.killed_runs import play
from helpers.tiny_run import write_tiny_config
from omegaconf import OmegaConf
from threestudio_jointdreamer.gaussians.densification import split, walk
from threestudio_jointdreamer.gaussians.rasterizer import Gaussians

from jointdreamer.host.launcher import run

RATES = {
    "positions": 0.002,
    "log_scales": 0.01,
    "rotations": 0.01,
    "opacities": 3.0,
    "colors": 0.02,
}
STEPS = 6
GEOMETRY = {
    "capacity": 40,
    "n_init": 30,
    "densify_from_iter": 1,
    "densify_until_iter": 6,
    "densification_interval": 2,
    "noise_lr": 100.0,
}


def geometry(**changes):
    return threestudio.find("jointdreamer-gaussians")({**GEOMETRY, **changes})


def config(folder, sd_folder, mv_folder, **system):
    """A run of `STEPS` steps with densifications after steps 2 and 4, and fading from 3 on."""
    system = {
        "geometry_type": "jointdreamer-gaussians",
        "geometry": GEOMETRY,
        "geometry_fading": {"start_step": 3, "lr": {"geometry.positions": 1e-5}},
        "material_type": "no-material",
        "renderer_type": "jointdreamer-gaussian-renderer",
        "exporter_type": "jointdreamer-gaussian-exporter",
        "exporter": {"fmt": "ply,glb"},
        "optimizer": {
            "name": "Adam",
            "params": {f"geometry.{name}": {"lr": rate} for name, rate in RATES.items()},
        },
        "loss": {"lambda_orient": 0.0},
        **system,
    }
    path = write_tiny_config(folder / "config.yaml", sd_folder, mv_folder)
    given = OmegaConf.load(path)
    for key in ("geometry", "material", "renderer", "exporter", "geometry_fading", "optimizer"):
        del given.system[key]
    changes = {"system": system, "trainer": {"max_steps": STEPS}, "data": {"n_test_views": 2}}
    OmegaConf.save(OmegaConf.merge(given, changes), path)
    return path


@pytest.fixture(scope="module")
def killed(tmp_path_factory, sd_folder, mv_folder):
    folder = tmp_path_factory.mktemp("killed")
    case = {"config": str(config(folder, sd_folder, mv_folder)), "kills": [5], "exports": []}
    return play(folder, {"case": case}, "threestudio_jointdreamer")["case"]


def test_killed_around_a_densification_and_resumed_it_ends_with_the_same_bits(killed):
    killed, whole = killed["killed"], killed["whole"]
    assert killed["codes"] == [-signal.SIGKILL, 0, 0] and whole["codes"] == [0, 0]
    assert killed["weights"] == whole["weights"] and killed["outputs"] == whole["outputs"]
    assert {f"save/it{STEPS}-export/model.{fmt}" for fmt in ("ply", "glb")} <= whole[
        "outputs"
    ].keys()


def test_copies_at_one_place_cover_what_the_one_did():
    """The integral of 1 - (1 - α)^n along a line, by a sum."""
    opacity, copies = torch.tensor([0.02, 0.5, 0.5, 0.99]), torch.tensor([2, 1, 7, 51])
    new, factor = split(opacity, copies)
    x = torch.linspace(-8, 8, 4001, dtype=torch.double)[:, None]
    covered = 1 - (1 - new * torch.exp(-0.5 * (x / factor) ** 2)) ** copies
    wanted = opacity * torch.exp(-0.5 * x**2)
    torch.testing.assert_close(covered.sum(0), wanted.sum(0), rtol=1e-4, atol=0)
    assert new[1] == 0.5 and factor[1] == 1


def test_the_walk_is_along_the_axes_and_of_the_faded():
    axes = torch.tensor([[0.1, 1.0, 2.0]]).expand(4000, 3)
    quarter = torch.tensor([[math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)]])  # x to y
    opacities = torch.full((4000,), 0.005)
    opacities[2000:] = 0.2
    gaussians = Gaussians(torch.zeros(4000, 3), axes, quarter.expand(4000, 4), opacities)
    steps = walk(gaussians, torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        steps[:2000].std(0), torch.tensor([0.5, 0.005, 2.0]), rtol=0.1, atol=0
    )
    assert steps[2000:].abs().max() < 1e-6


def test_densification_revives_the_dead_and_brings_more_into_use():
    shape = geometry()
    parameters = {name: getattr(shape, name) for name in RATES}
    optimizer = torch.optim.Adam([{"params": [p], "lr": 0.0} for p in parameters.values()])
    shape.positions.grad = torch.ones(40, 3)
    shape.colors.grad = torch.ones(40, 3)
    optimizer.step()
    with torch.no_grad():
        shape.opacities[:20] = -9.0
        shape.opacities[20] = 4.0
        shape.colors[20] = 1.0
    before = {name: value.clone() for name, value in parameters.items()}
    shape.after_optimizer_step(optimizer, 3)
    assert all(torch.equal(value, before[name]) for name, value in parameters.items())
    shape.after_optimizer_step(optimizer, 4)
    assert shape.count == 31  # 5 % more
    assert shape.gaussians().opacities.min() > 0.005
    copied = [*range(20), 30]
    assert all((shape.positions[i] == shape.positions[20:30]).all(-1).any() for i in copied)
    assert (shape.colors[copied] == 1).all(-1).sum() > 5  # most are on the opaque one
    moments = optimizer.state[shape.positions]["exp_avg"]
    assert not moments[copied].any() and not moments[20].any() and moments[31:].all()
    for step in range(6, 40, 2):
        shape.after_optimizer_step(optimizer, step)
    assert shape.count == 31  # densify_until_iter


def test_another_runs_surface_is_a_start(tmp_path, sd_folder, mv_folder):
    volume = write_tiny_config(tmp_path / "volume.yaml", sd_folder, mv_folder)
    first = run(["--config", str(volume), "--train", "trainer.max_steps=1", "tag=first"])
    path = config(
        tmp_path,
        sd_folder,
        mv_folder,
        geometry_convert_from=first["ckpt"],
        geometry_convert_inherit_texture=True,
    )
    result = run(["--config", str(path), "--train", "trainer.max_steps=1", "tag=second"])
    state = torch.load(result["ckpt"], weights_only=True)["state_dict"]
    positions, colors = (state[f"geometry.{name}"][:30] for name in ("positions", "colors"))
    assert positions.norm(dim=-1).std() < 0.1 and 0.2 < positions.norm(dim=-1).mean() < 0.8
    assert colors.std() > 0.01


def test_points_of_a_ply_are_a_start(tmp_path):
    corners = trimesh.creation.box().vertices
    colors = [[255, 0, 0, 255]] * 4 + [[0, 0, 255, 255]] * 4
    trimesh.PointCloud(corners, colors).export(tmp_path / "box.ply")
    shape = geometry(init=str(tmp_path / "box.ply"))
    assert shape.count == 8
    # the file's x is y here, its y is z, its z is x
    expected = torch.from_numpy(corners[:, [2, 0, 1]]).float()
    torch.testing.assert_close(shape.gaussians().positions, expected)
    torch.testing.assert_close(shape.gaussians().scales, torch.ones(8, 3))
    assert shape.rgb()[0].argmax() == 0 and shape.rgb()[-1].argmax() == 2


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"init": "missing.ply"}, r"system\.geometry\.init=missing\.ply is no PLY"),
        ({"init": "cube"}, r"system\.geometry\.init='cube'"),
        ({"n_init": 41}, r"system\.geometry\.capacity=40 is too small.* 41 Gaussians"),
    ],
)
def test_a_start_that_is_none_names_its_key(values, words):
    with pytest.raises(ValueError, match=words):
        geometry(**values)
