"""A second stage that starts from the first one's weights, in whole runs with random priors."""

import shutil
from pathlib import Path

import pytest
import torch
from helpers.tiny_run import logged, write_tiny_config
from omegaconf import OmegaConf
from threestudio_jointdreamer.systems.stage_weights import make_plain

from jointdreamer.host.launcher import run

SECOND_STEPS = 4


def state_of(ckpt: str | Path) -> dict:
    return torch.load(ckpt, weights_only=True)


@pytest.fixture(scope="module")
def first(tmp_path_factory, sd_folder, mv_folder):
    root = tmp_path_factory.mktemp("first")
    config = write_tiny_config(root / "config.yaml", sd_folder, mv_folder)
    return run(["--config", str(config), "--train", "trainer.limit_val_batches=0"])


@pytest.fixture(scope="module")
def second_config(first, tmp_path_factory, sd_folder, mv_folder):
    """As configs/jointdreamer-refine.yaml changes the first stage's config."""
    root = tmp_path_factory.mktemp("second")
    return write_tiny_config(
        root / "config.yaml",
        sd_folder,
        mv_folder,
        system={
            "weights": first["ckpt"],
            "geometry_fading": None,
            "guidance": {"energy_weight": 0.0, "guidance_scale": [2, 3.0, 6.0, 3]},
            "optimizer": {
                "params": {"geometry.density_network": {"lr": 1e-6}, "geometry.encoding": {"lr": 0}}
            },
        },
        trainer={"max_steps": SECOND_STEPS, "limit_val_batches": 0},
    )


@pytest.fixture(scope="module")
def second(second_config):
    return run(["--config", str(second_config), "--train"])


def test_the_second_stage_starts_from_the_firsts_weights(first, second):
    before = state_of(first["ckpt"])["state_dict"]
    after = state_of(second["ckpt"])["state_dict"]

    def moved(name: str) -> float:
        return max((before[key] - after[key]).abs().max().item() for key in before if name in key)

    assert moved("geometry.encoding") == 0.0
    assert moved("density_network") < 1e-5 < 1e-4 < moved("feature_network")


def test_the_second_stage_counts_its_own_steps(second):
    assert second["global_step"] == SECOND_STEPS
    scale = logged(second["trial_dir"])["train/guidance_scale"]
    assert [scale[step] for step in range(SECOND_STEPS)] == [3.0, 3.0, 3.0, 6.0]


def test_the_second_stages_optimizer_is_fresh(second):
    state = state_of(second["ckpt"])["optimizer_states"][0]
    rates = {group["name"]: group["lr"] for group in state["param_groups"]}
    assert rates["geometry.density_network"] == 1e-6
    assert {int(moments["step"]) for moments in state["state"].values()} == {SECOND_STEPS}


def test_a_resumed_second_stage_does_not_need_the_first(second, tmp_path):
    """Neither to go on nor to export: the first stage may be gone."""
    folder = tmp_path / "outputs" / "tiny" / "moved"
    shutil.copytree(second["trial_dir"], folder)
    config = folder / "configs" / "parsed.yaml"
    cfg = OmegaConf.load(config)
    cfg.system.weights = str(tmp_path / "gone.ckpt")
    OmegaConf.save(cfg, config)
    more = [f"resume={folder}", f"trainer.max_steps={SECOND_STEPS + 1}"]
    assert run(["--config", str(config), "--train", *more])["global_step"] == SECOND_STEPS + 1
    run(["--config", str(config), "--export", f"resume={folder}"])
    assert list(folder.glob("save/*-export/*.glb"))


def test_missing_weights_are_told_with_the_key(second_config, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"system\.weights=.*gone\.ckpt does not exist"):
        start(second_config, tmp_path, f"system.weights={tmp_path / 'gone.ckpt'}")


def start(config: Path, tmp_path: Path, *overrides: str) -> None:
    """Builds the run; whatever is wrong with its weights comes up before the first step."""
    run(["--config", str(config), "--train", f"exp_root_dir={tmp_path}", *overrides])


def test_weights_of_another_shape_are_refused(second_config, tmp_path):
    with pytest.raises(ValueError, match=r"system\.weights=.* does not fit: size mismatch for geo"):
        start(second_config, tmp_path, "system.geometry.mlp_network_config.n_neurons=16")


def test_weights_without_a_part_of_the_geometry_are_refused(second_config, tmp_path):
    """threestudio alone would train that part from nothing and say nothing."""
    with pytest.raises(ValueError, match=r"nothing for geometry\.normal_network.*geometry_convert"):
        start(second_config, tmp_path, "system.geometry.normal_type=pred")


def test_a_part_that_may_start_anew_is_named(second_config, tmp_path):
    start(
        second_config,
        tmp_path,
        "system.geometry.normal_type=pred",
        "system.weights_ignore_modules=[geometry.normal_network]",
        "trainer.max_steps=1",
        "data.n_test_views=1",
    )
    assert list(tmp_path.glob("*/*/ckpts/last.ckpt"))


def test_omegaconf_leaves_no_trace_in_a_checkpoint(tmp_path):
    config = OmegaConf.create({"betas": [0.9, 0.99], "nested": {"milestones": [1, 2]}})
    weight = torch.ones(2)
    checkpoint = {
        "optimizer_states": [{"param_groups": [{"betas": config.betas, "lr": 0.1}]}],
        "lr_schedulers": ({"config": config.nested},),
        "state_dict": {"weight": weight},
    }
    make_plain(checkpoint)
    torch.save(checkpoint, tmp_path / "a.ckpt")
    loaded = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert loaded["optimizer_states"][0]["param_groups"][0]["betas"] == [0.9, 0.99]
    assert loaded["lr_schedulers"] == ({"config": {"milestones": [1, 2]}},)
    assert checkpoint["state_dict"]["weight"] is weight
