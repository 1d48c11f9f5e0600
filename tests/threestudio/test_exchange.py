"""A checkpoint trained in one host is rendered by the other."""

from pathlib import Path

import pytest
from helpers.real_threestudio import CHECKOUT, PROMPT, ROOT, Launched, run_launch
from omegaconf import OmegaConf

from benchmarks.hosts.pictures import compare_turntables, read_turntable

STEPS, EVERY = 60, 10
VIEWS = 9
ENOUGH = 35.0  # dB
CONFIG = ROOT / "configs" / "tiny" / "jointdreamer.yaml"
WITH_NORMALS = {  # the parts of the full-size config that the tiny one lacks
    "material_type": "diffuse-with-point-light-material",
    "material": {"soft_shading": True, "ambient_only_steps": 20},
    "background_type": "neural-environment-map-background",
    "background": {"random_aug": True},
}
CASES = {"tiny config": {}, "normals, shading, learned background": WITH_NORMALS}


@pytest.fixture(params=CASES)
def config(request, tmp_path) -> Path:
    """The tiny config with these parts in place of its own."""
    cfg = OmegaConf.load(CONFIG)
    for key, value in CASES[request.param].items():
        cfg.system[key] = value
        cfg.system.geometry.normal_type = "analytic"
    path = tmp_path / "config.yaml"
    OmegaConf.save(cfg, path)
    return path


def arguments(config: Path, action: str, *more: str) -> list[str]:
    return [
        *("--config", str(config), f"--{action}"),
        *(f"system.prompt_processor.prompt={PROMPT}", f"trainer.max_steps={STEPS}"),
        *("data.resolution_milestones=[20]", f"data.n_test_views={VIEWS}"),
        f"trainer.val_check_interval={STEPS}",
        *(f"checkpoint.every_n_train_steps={EVERY}", *more),
    ]


def test_threestudios_checkpoint_renders_in_the_standalone_host(
    config, launch, launch_standalone, record_property
):
    theirs = launch(arguments(config, "train"))
    for kernels in ("1", "0"):  # nerfacc's march, and the one in PyTorch
        ours = launch_standalone(
            arguments(config, "test", f"resume={theirs.ckpt}", f"name=march{kernels}"),
            env={"JOINTDREAMER_NERFACC_CUDA": kernels},
        )
        assert_same(ours, theirs, f"PSNR, nerfacc's march {kernels}", record_property)


def test_standalone_hosts_checkpoint_renders_in_threestudio(
    config, launch, launch_standalone, record_property
):
    ours = launch_standalone(arguments(config, "train"))
    theirs = launch(arguments(config, "test", f"resume={ours.ckpt}"))
    assert_same(theirs, ours, "PSNR", record_property)


def test_training_goes_on_in_the_other_host(config, launch, launch_standalone):
    """Weights, optimizer, occupancy grid and step: all of a checkpoint is understood."""
    more = [f"trainer.max_steps={STEPS + 10}", "data.n_test_views=1"]
    theirs = launch(arguments(config, "train"))
    ours = launch_standalone(arguments(config, "train", f"resume={theirs.ckpt}", *more))
    assert (ours.save_dir / f"it{STEPS + 10}-test").is_dir()
    more = [f"trainer.max_steps={STEPS + 20}", "data.n_test_views=1"]
    back = launch(arguments(config, "train", f"resume={ours.ckpt}", *more))
    assert (back.save_dir / f"it{STEPS + 20}-test").is_dir()


def assert_same(rendered: Launched, trained: Launched, name: str, record_property) -> None:
    frames, expected = read_turntable(rendered.trial_dir), read_turntable(trained.trial_dir)
    assert len(frames) == VIEWS
    together, worst = compare_turntables(frames, expected)
    record_property(name, f"{together:.1f} dB, worst frame {worst:.1f} dB")
    assert worst > ENOUGH


def test_hosts_are_told_apart(checkout, launch_standalone, tmp_path):
    """The fixtures run what they say: else the tests above would compare a host with itself."""
    arguments = ["--config", str(CONFIG), "--test", "resume=nothing"]
    ours = launch_standalone(arguments, fails=True)
    environment = {CHECKOUT: str(checkout)}
    theirs = run_launch(arguments, ROOT, tmp_path, env=environment, fails=True)
    assert "standalone host" in ours.log and "standalone host" not in theirs.log
