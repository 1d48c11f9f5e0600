"""The three stages in the real threestudio: volume, texture refinement, tetrahedra, and export.

With pytest-xdist (`-n 8 --dist load`) one worker trains them and all of them look at the runs.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
import trimesh
from helpers.real_threestudio import Launched, run_launch, tiny_overrides
from PIL import Image

STEPS, REFINE_STEPS, DMTET_STEPS = 60, 30, 30
RESOLUTION = 32  # of the tetrahedra; the 128 of the config is what users need to have
SIZE = 64  # of a picture
SETTINGS = [  # of the tiny priors, which know no "front view"
    "trainer.enable_progress_bar=true",  # threestudio's launcher needs it
    "system.guidance.view_dependent_prompting=false",
    "system.guidance.min_step_percent=0.02",
    "system.guidance.max_step_percent=0.98",
    "system.guidance.guidance_scale=10.0",
    "data.eval_fovy_deg=40.0",
]
FIRST = ["system.guidance.energy_weight=0.3125"]
DMTET = [
    f"system.geometry.isosurface_resolution={RESOLUTION}",
    "system.geometry_convert_override.isosurface_threshold=2.0",  # so few steps leave it thin
]
EXPORT = [
    f"system.geometry.isosurface_resolution={RESOLUTION}",
    "system.exporter.texture_size=128",
]


def arguments(stage: str, steps: int, *more: str) -> list[str]:
    """The command line of a training stage, full-size config and tiny priors."""
    overrides = tiny_overrides(steps, energy=stage != "-refine", volume=stage != "-dmtet")
    if stage == "-dmtet":
        volume = tiny_overrides(steps, volume=True)
        overrides += [item for item in volume if item.startswith("system.geometry.pos_encoding")]
    config = f"configs/jointdreamer{stage}.yaml"
    return ["--config", config, "--train", *overrides, *SETTINGS, *more]


@dataclass
class Stages:
    """The three runs, one after the other."""

    first: Launched
    refine: Launched
    dmtet: Launched
    view: Path


@pytest.fixture(scope="module")
def stages(once, views, tmp_path_factory) -> Stages:
    return once("stages", lambda: train(views(), tmp_path_factory.mktemp("stages")))


def train(view: Path, root: Path) -> Stages:
    def launch(name: str, stage: str, steps: int, *more: str) -> Launched:
        return run_launch(arguments(stage, steps, *more), view, root / name)

    first = launch("first", "", STEPS, *FIRST)
    refine = launch("refine", "-refine", REFINE_STEPS, f"system.weights={first.ckpt}")
    convert = f"system.geometry_convert_from={refine.ckpt}"
    dmtet = launch("dmtet", "-dmtet", DMTET_STEPS, *DMTET, convert)
    return Stages(first, refine, dmtet, view)


def weights(run: Launched) -> dict[str, torch.Tensor]:
    """As threestudio reads them on current PyTorch: plain data only."""
    checkpoint = torch.load(run.ckpt, map_location="cpu", weights_only=True)
    return checkpoint["state_dict"]


def moved(before: dict, after: dict, name: str) -> float:
    keys = [key for key in before if name in key]
    assert keys, f"no weights of {name}"
    return max((before[key].float() - after[key].float()).abs().max().item() for key in keys)


def test_refinement_goes_on_from_the_first_stages_weights(stages):
    before, after = weights(stages.first), weights(stages.refine)
    assert moved(before, after, "density_network") < 1e-4
    assert moved(before, after, "geometry.encoding") < 1e-4
    assert moved(before, after, "feature_network") > 1e-3


def test_refinement_counts_its_own_steps_with_its_own_learning_rates(stages):
    checkpoint = torch.load(stages.refine.ckpt, map_location="cpu", weights_only=True)
    groups = checkpoint["optimizer_states"][0]["param_groups"]
    assert checkpoint["global_step"] == REFINE_STEPS
    assert {group["name"]: group["lr"] for group in groups}["geometry.encoding"] == 1e-6


def test_tetrahedra_start_from_the_volumes_colours(stages):
    volume, mesh = weights(stages.refine), weights(stages.dmtet)
    keys = [key for key in volume if key.startswith("geometry.encoding")]
    assert keys and all(key in mesh for key in keys)
    for key in keys:
        apart = (volume[key].float() - mesh[key].float()).norm()
        assert apart < 0.5 * volume[key].float().norm(), key


def silhouette(run: Launched, steps: int, view: int) -> np.ndarray:
    """Where the normals of a test frame, its right half, are not black."""
    frame = imageio.imread(run.save_dir / f"it{steps}-test" / f"{view}.png")
    assert frame.shape[:2] == (SIZE, 2 * SIZE)
    return frame[:, SIZE:, :3].max(-1) > 64


@pytest.mark.parametrize("view", [0, 3])
def test_tetrahedra_have_the_volumes_silhouette(stages, view):
    a = silhouette(stages.refine, REFINE_STEPS, view)
    b = silhouette(stages.dmtet, DMTET_STEPS, view)
    overlap = (a & b).sum() / max(1, (a | b).sum())
    assert b.mean() > 0.02 and overlap > 0.4, f"overlap {overlap:.2f}, mesh {b.mean():.3f}"


def test_losses_of_the_mesh_are_finite_and_not_zero(stages):
    log = stages.dmtet.numbers
    for name in ("sds", "normal_consistency", "laplacian_smoothness"):
        values = log[f"train/loss_{name}"].values()
        assert len(values) == DMTET_STEPS, name
        assert all(math.isfinite(value) and value > 0 for value in values), name


def test_the_energy_acts_on_the_mesh(stages):
    norms = stages.dmtet.numbers["train/energy_grad_norm"]
    assert len(norms) == DMTET_STEPS
    assert all(math.isfinite(norm) and norm > 0 for norm in norms.values())


def test_the_surface_is_trained(stages):
    mesh = weights(stages.dmtet)
    assert mesh["geometry.deformation"].abs().max() > 0  # it starts at 0
    assert mesh["geometry.sdf"].min() < 0 < mesh["geometry.sdf"].max()


def test_every_stage_leaves_a_turntable(stages):
    runs = (stages.first, STEPS), (stages.refine, REFINE_STEPS), (stages.dmtet, DMTET_STEPS)
    for run, steps in runs:
        assert (run.save_dir / f"it{steps}-test.mp4").stat().st_size > 0
        sheet = imageio.imread(run.save_dir / f"it{steps}-test-contact-sheet.png")
        assert sheet.std() > 5


def evaluate(stages: Stages, run: Launched, outputs: Path, action: str, *more: str) -> Launched:
    """An evaluation as threestudio's docs do it, with the run's own config; the run stays as it is.

    Args:
        outputs: where it writes.
    """
    config = run.trial_dir / "configs" / "parsed.yaml"
    args = ["--config", str(config), action, f"resume={run.ckpt}", *more]
    return run_launch([*args, f"exp_root_dir={outputs}"], stages.view, outputs)


@pytest.mark.parametrize(("name", "file"), [("first", "model.glb"), ("dmtet", "model.obj")])
def test_the_asset_is_exported_with_its_texture(stages, tmp_path, name, file):
    run = getattr(stages, name)
    steps = {"first": STEPS, "dmtet": DMTET_STEPS}[name]
    threshold = ["system.geometry.isosurface_threshold=2.0"] if name == "first" else []
    evaluate(stages, run, tmp_path, "--export", *EXPORT, *threshold)
    folder = next(tmp_path.glob(f"*/*/save/it{steps}-export"))
    mesh = trimesh.load(folder / file, force="mesh", process=False)
    assert len(mesh.faces) > 100 and np.abs(mesh.vertices).max() <= 1.0
    assert mesh.visual.uv is not None and len(mesh.visual.uv) == len(mesh.vertices)
    texture = getattr(mesh.visual.material, "baseColorTexture", None)
    if texture is None:  # threestudio's exporter names its picture otherwise than trimesh looks
        texture = Image.open(folder / "texture_kd.jpg")
    assert texture.size == (128, 128)


@pytest.mark.parametrize("action", ["--validate", "--test"])
def test_a_mesh_run_is_evaluated_from_its_checkpoint(stages, tmp_path, action):
    evaluated = evaluate(stages, stages.dmtet, tmp_path, action)
    assert list(evaluated.save_dir.glob(f"it{DMTET_STEPS}-*"))


def test_a_mesh_run_is_resumed_without_converting_again(stages, tmp_path):
    run = stages.dmtet
    steps = DMTET_STEPS + 2
    gone = "system.geometry_convert_from=gone.ckpt"
    more = [f"trainer.max_steps={steps}", "checkpoint.every_n_train_steps=1", gone]
    ended = evaluate(stages, run, tmp_path, "--train", *more)
    checkpoints = ended.outputs.glob(f"*/*/ckpts/*step={steps}.ckpt")
    state = torch.load(next(checkpoints), map_location="cpu", weights_only=True)
    assert state["global_step"] == steps and "Initializing geometry" not in ended.log


def test_our_launcher_finds_threestudios_tetrahedra(stages, launch_ours):
    convert = f"system.geometry_convert_from={stages.first.ckpt}"
    run = launch_ours(arguments("-dmtet", 2, *DMTET, convert))
    assert run.ckpt.is_file()


def test_the_standalone_host_says_where_the_mesh_stage_runs(stages, launch_standalone):
    convert = f"system.geometry_convert_from={stages.first.ckpt}"
    refused = launch_standalone(arguments("-dmtet", 2, *DMTET, convert), fails=True)
    assert "tetrahedral grids" in refused.log and "Traceback" not in refused.log
