"""The tiny config in the real threestudio, end to end: train, resume, validate, test, export."""

import math
import os

import pytest
import trimesh
from helpers.real_threestudio import PROMPT, Launched, make_view, run_launch

from benchmarks.hosts.pictures import compare_turntables, read_turntable

CONFIG = "configs/tiny/jointdreamer.yaml"
STEPS, HALF = 60, 30
VIEWS = 9
ALIKE = 35.0  # dB
MARGIN = 3.0  # dB that two hosts may be below two runs of one
KERNELS = {"JOINTDREAMER_NERFACC_CUDA": "1"}  # the standalone host marches as threestudio does


def arguments(action: str, steps: int, *more: str) -> list[str]:
    return [
        *("--config", CONFIG, f"--{action}", f"system.prompt_processor.prompt={PROMPT}"),
        *(f"trainer.max_steps={steps}", f"trainer.val_check_interval={HALF}"),
        *(f"checkpoint.every_n_train_steps={HALF}", "trainer.log_every_n_steps=1"),
        *("data.resolution_milestones=[20]", f"data.n_test_views={VIEWS}"),
        *("system.guidance_eval_step=20", *more),
    ]


@pytest.fixture(scope="module")
def trained(views, tmp_path_factory) -> Launched:
    """A run of STEPS steps by threestudio's own launch.py."""
    outputs = tmp_path_factory.mktemp("tiny") / "outputs"
    return run_launch(arguments("train", STEPS), views(), outputs)


def test_training_leaves_pictures_checkpoints_and_logs(trained):
    names = {path.name for path in trained.save_dir.iterdir()}
    steps = (20, 40)
    assert {f"it{HALF}-val.png", f"it{STEPS}-val.png", f"it{STEPS}-test.mp4"} <= names
    assert {f"it{step}-train.png" for step in steps} <= names
    assert f"it{STEPS}-test-contact-sheet.png" in names
    assert trained.ckpt.is_file()
    assert (trained.trial_dir / "configs" / "parsed.yaml").is_file()
    assert len(read_turntable(trained.trial_dir)) == VIEWS


def test_losses_are_finite_at_every_step(trained):
    losses = trained.numbers["train/loss_sds"]
    assert len(losses) == STEPS
    assert all(math.isfinite(loss) and loss > 0 for loss in losses.values())


def test_encodings_in_pytorch_serve_where_tiny_cuda_nn_does_not_work(
    checkout, tmp_path, monkeypatch
):
    """One line of the log says so, and why."""
    broken = tmp_path / "broken" / "tinycudann"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise OSError('built for another GPU')\n")
    path = [str(broken.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    view = make_view(checkout, tmp_path / "view")
    assert (view / "tinycudann").is_symlink()
    launched = run_launch(arguments("train", 2), view, tmp_path / "outputs")
    (line,) = [line for line in launched.log.splitlines() if "tinycudann" in line]
    assert "in PyTorch" in line and "built for another GPU" in line


def test_resumed_run_ends_where_the_straight_one_does(trained, launch, record_property):
    first = launch(arguments("train", HALF, "tag=first"))
    again = launch(arguments("train", STEPS, "tag=again", f"resume={first.ckpt}"))
    together, worst = same_picture(again, trained)
    record_property("PSNR", f"{together:.1f} dB, worst frame {worst:.1f} dB")
    assert together > ALIKE - MARGIN


def test_validate_and_test_show_a_checkpoint_as_training_left_it(trained, launch):
    validated = launch(arguments("validate", STEPS, f"resume={trained.ckpt}"))
    assert (validated.save_dir / f"it{STEPS}-val.png").is_file()
    tested = launch(arguments("test", STEPS, f"resume={trained.ckpt}"))
    together, _ = same_picture(tested, trained)
    assert together > 60  # the GPU adds in any order


def test_export_writes_a_textured_mesh(trained, launch):
    sizes = ["system.geometry.isosurface_resolution=40", "system.exporter.texture_size=128"]
    exported = launch(arguments("export", STEPS, f"resume={trained.ckpt}", *sizes))
    scene = trimesh.load(exported.save_dir / f"it{STEPS}-export" / "model.glb")
    (mesh,) = scene.geometry.values()
    assert len(mesh.faces) > 100 and mesh.visual.material.baseColorTexture.size == (128, 128)


def test_a_film_along_a_path_without_its_background(trained, launch, tmp_path):
    (tmp_path / "path.json").write_text('[{"azimuth": 0}, {"azimuth": 90, "elevation": 60}]')
    more = ["system.transparent_film=true", f"data.test_camera_path={tmp_path / 'path.json'}"]
    tested = launch(arguments("test", STEPS, f"resume={trained.ckpt}", *more))
    names = {path.name for path in tested.save_dir.glob(f"it{STEPS}-path*")}
    ends = ("", ".mp4", "-transparent", ".webm")
    assert names == {f"it{STEPS}-path{end}" for end in ends}


def test_our_launcher_trains_there_without_touching_the_checkout(trained, checkout, launch_ours):
    before = listing(checkout)
    ours = launch_ours(arguments("train", STEPS), env=KERNELS)
    assert listing(checkout) == before
    together, _ = same_picture(ours, trained)
    assert together > ALIKE - MARGIN


def test_picture_is_the_standalone_hosts(trained, launch, launch_standalone, record_property):
    """As alike as two runs of threestudio are, which the GPU's order of additions tells apart."""
    standalone = launch_standalone(arguments("train", STEPS), env=KERNELS)
    together, worst = same_picture(standalone, trained)
    record_property("standalone host", f"{together:.1f} dB, worst frame {worst:.1f} dB")
    if together < ALIKE:
        again, _ = same_picture(launch(arguments("train", STEPS)), trained)
        record_property("threestudio again", f"{again:.1f} dB")
        assert together > again - MARGIN


def same_picture(a: Launched, b: Launched) -> tuple[float, float]:
    return compare_turntables(read_turntable(a.trial_dir), read_turntable(b.trial_dir))


def listing(checkout) -> set[str]:
    """Files of the checkout but for Python's own caches."""
    found = set()
    for folder, subfolders, files in os.walk(checkout):
        subfolders[:] = [name for name in subfolders if name not in ("__pycache__", ".git")]
        found |= {os.path.join(folder, name) for name in [*subfolders, *files]}
    return found
