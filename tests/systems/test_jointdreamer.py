"""jointdreamer-system in whole runs of a few steps with random priors."""

from pathlib import Path

import pytest
import threestudio
import torch
from helpers.tiny_run import FADING, STEPS, SWITCH, logged, tiny_config, write_tiny_config
from omegaconf import OmegaConf
from PIL import Image
from threestudio_jointdreamer.systems.jointdreamer import JointDreamer
from threestudio_jointdreamer.systems.losses import REGULARISERS

from jointdreamer.host.launcher import run


def weights(ckpt: str) -> dict[str, torch.Tensor]:
    return torch.load(ckpt, weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, sd_folder, mv_folder):
    """One run across both switches, with guidance pictures at step 6."""
    root = tmp_path_factory.mktemp("finished")
    config = write_tiny_config(
        root / "config.yaml", sd_folder, mv_folder, system={"guidance_eval_step": 6}
    )
    return run(["--config", str(config), "--train"])


def system_of(tmp_path, sd_folder, mv_folder, **changes) -> JointDreamer:
    config = tiny_config(sd_folder, mv_folder, tmp_path, system=changes)
    return threestudio.find(config["system_type"])(OmegaConf.create(config["system"]))


def test_one_run_crosses_cfg_switch_and_time_annealing(finished):
    log = logged(finished["trial_dir"])
    scale = log["train/guidance_scale"]
    assert [scale[step] for step in (0, SWITCH - 1, SWITCH, STEPS - 1)] == [3.0, 3.0, 6.0, 6.0]
    t_max, t_min = log["train/max_step"], log["train/min_step"]
    assert [t_max[0], t_max[3], t_max[6]] == [980.0, 740.0, 500.0]
    assert [t_min[0], t_min[3], t_min[6]] == [980.0, 500.0, 20.0]
    assert log["train/energy_weight"][0] == 0.0 and log["train/energy_weight"][1] == 0.5
    assert set(log["train/energy"]) == set(range(1, STEPS))  # not evaluated while its weight is 0


def test_geometry_fading_slows_the_named_group_alone(finished):
    rate = logged(finished["trial_dir"])["train_params/lr_geometry.density_network"]
    assert [rate[FADING - 1], rate[FADING]] == pytest.approx([1e-3, 1e-6])
    folder = Path(finished["trial_dir"], "ckpts")
    before, at, after = (weights(next(folder.glob(f"*step={n}.ckpt"))) for n in (2, 4, 8))
    settled = weights(next(folder.glob("*step=6.ckpt")))

    def moved(a: dict, b: dict, name: str) -> float:
        return max((a[key] - b[key]).abs().max().item() for key in a if name in key)

    assert moved(settled, after, "density_network") < 1e-5 < moved(before, at, "density_network")
    assert moved(settled, after, "feature_network") > 1e-4


def test_fading_stops_the_orientation_loss_and_leaves_the_optimizers_own_rates(finished):
    log = logged(finished["trial_dir"])["train_params/lambda_orient"]
    assert log[FADING - 1] == 1.0 and log[FADING] == 0.0
    state = torch.load(finished["ckpt"], weights_only=True)["optimizer_states"][0]
    rates = {group["name"]: group["lr"] for group in state["param_groups"]}
    assert rates["geometry.density_network"] == 0.001


def test_every_loss_and_its_weight_are_logged(finished):
    log = logged(finished["trial_dir"])
    for name in ("sds", "orient", "sparsity", "opaque", "z_variance"):
        assert f"train/loss_{name}" in log and f"train_params/lambda_{name}" in log
    assert all(torch.isfinite(torch.tensor(v)) for s in log.values() for v in s.values())


def test_validation_is_one_picture_of_all_views_and_the_guidance_shows_at_its_step(finished):
    saved = sorted(p.name for p in Path(finished["save_dir"]).glob("*.png"))
    of_steps = [name for name in saved if "-test" not in name]
    assert of_steps == ["it4-val.png", "it6-train.png", "it8-val.png"]
    width, height = Image.open(Path(finished["save_dir"], saved[0])).size
    assert height > 3 * 96 and 2 * 96 < width < 3 * 96  # three rows of two views


def test_looking_does_not_change_the_run(finished, tmp_path, sd_folder, mv_folder):
    config = write_tiny_config(
        tmp_path / "config.yaml", sd_folder, mv_folder, trainer={"limit_val_batches": 0}
    )
    blind = run(["--config", str(config), "--train"])
    seen, unseen = weights(finished["ckpt"]), weights(blind["ckpt"])
    assert all(torch.equal(seen[key], unseen[key]) for key in seen)


def test_turntable_leaves_frames_video_and_contact_sheet(finished):
    save = Path(finished["save_dir"])
    frames = sorted(int(p.stem) for p in (save / f"it{STEPS}-test").glob("*.png"))
    assert frames == list(range(9))
    assert (save / f"it{STEPS}-test.mp4").stat().st_size > 0
    width, height = Image.open(save / f"it{STEPS}-test-contact-sheet.png").size
    assert width > 4 * 96 and height > 2 * 96


def test_export_writes_a_mesh(finished):
    config = Path(finished["trial_dir"], "configs", "raw.yaml")
    run(["--config", str(config), "--export", f"resume={finished['ckpt']}"])
    assert list(Path(finished["save_dir"], f"it{STEPS}-export").glob("*.glb"))


@pytest.mark.parametrize(
    ("step", "computed"),
    [(0, ["orient"]), (FADING - 1, ["orient", "opaque"]), (FADING, ["opaque"])],
)
def test_a_loss_whose_weight_is_zero_now_is_not_computed(monkeypatch, finished, step, computed):
    """`opaque` begins after step 0, `orient` ends with geometry fading, `sparsity` is never on."""
    called = []
    for name in REGULARISERS:
        monkeypatch.setitem(REGULARISERS, name, lambda out, name=name: called.append(name) or 0.0)
    system = finished_system(
        finished,
        {"lambda_orient": 1.0, "lambda_sparsity": 0.0, "lambda_opaque": [0, 0.0, 1.0, 1]},
        step,
    )
    monkeypatch.setattr(system, "_log_scalars", lambda *args: None)
    system._regularisation({})
    assert called == computed


def finished_system(finished, loss, step: int = 0) -> JointDreamer:
    cfg = OmegaConf.load(Path(finished["trial_dir"], "configs", "parsed.yaml")).system
    cfg.loss = loss
    system = threestudio.find("jointdreamer-system")(cfg)
    system.set_resume_status(0, step)
    return system


def test_guidance_loss_without_its_lambda_is_named(finished):
    system = finished_system(finished, {"lambda_sparsity": 1.0})
    with pytest.raises(ValueError, match=r"system\.loss\.lambda_sds is missing"):
        system._guidance_loss({"loss_sds": torch.ones(())})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": {"lambda_sdss": 1.0}}, r"system\.loss\.lambda_sdss"),
        ({"loss": {"lambda_opaque": [1, 2]}}, r"system\.loss\.lambda_opaque=\[1, 2\]"),
        ({"geometry_fading": {"lr": {"background": 0.1}}}, r"fading\.lr\.background names no"),
        ({"geometry_fading": {"stop_step": 3}}, "stop_step"),
    ],
)
def test_mistakes_in_the_config_are_named(tmp_path, sd_folder, mv_folder, changes, message):
    with pytest.raises(ValueError, match=message):
        system_of(tmp_path, sd_folder, mv_folder, **changes)
