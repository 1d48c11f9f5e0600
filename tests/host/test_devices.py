"""One asset on several devices, here two processes of a CPU."""

import sys
from pathlib import Path

import pytest
import torch
from helpers.real_threestudio import ROOT, run_launch
from helpers.tiny_run import tiny_config
from omegaconf import OmegaConf

from jointdreamer.host.launcher import run

STEP = ["trainer.max_steps=1", "checkpoint.every_n_train_steps=1"]
TWO = ["trainer.devices=2", "trainer.enable_progress_bar=true", "trainer.accelerator=cpu"]
CHUNKS = ["system.render_chunk=64", "system.guidance.memory=low"]


def state(ckpt: str | Path) -> dict[str, torch.Tensor]:
    return torch.load(ckpt, weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def command(tmp_path_factory, sd_folder, mv_folder):
    """`command(name, *more)`: a step of a run from one and the same start."""
    root = tmp_path_factory.mktemp("devices")
    content = tiny_config(sd_folder, mv_folder, root)
    content["system"]["optimizer"] = {"name": "SGD", "args": {"lr": 1.0e-4}}
    content["system"]["geometry_fading"] = None
    content["system"]["renderer"] |= {"grid_prune": False, "randomized": False}
    config = root / "config.yaml"
    OmegaConf.save(OmegaConf.create(content), config)
    start = run(["--config", str(config), "--train", "name=start", *STEP])["ckpt"]

    def command(name: str, *more: str) -> list[str]:
        own = [f"name={name}", f"system.weights={start}", f"exp_root_dir={root}"]
        return ["--config", str(config), "--train", *own, *STEP, *more]

    return command


def launch(args: list[str]) -> tuple[str, Path]:
    """The log and the folder of a run on two devices."""
    keys = dict(arg.split("=", 1) for arg in args if "=" in arg)
    root = Path(keys["exp_root_dir"])
    env = {"PYTHONWARNINGS": None}
    if sys.platform == "linux":
        env["GLOO_SOCKET_IFNAME"] = "lo"
    return run_launch(args, ROOT, root, env=env).log, root / keys["name"] / "run"


@pytest.fixture(scope="module")
def on_two(command):
    """Its log, and its run's folder."""
    return launch(command("two", *TWO, *CHUNKS))


def test_a_step_is_the_mean_of_the_devices_own_steps(command, on_two):
    """Each draws its own cameras, timesteps and noises, by the seeds 7 and 8."""
    singles = [state(run(command(f"seed-{s}", f"seed={s}", *CHUNKS))["ckpt"]) for s in (7, 8)]
    found = state(on_two[1] / "ckpts" / "last.ckpt")
    moved = 0.0
    for name, value in found.items():
        first, second = (single[name] for single in singles)
        if value.is_floating_point() and "geometry" in name:
            torch.testing.assert_close(value, (first + second) / 2, rtol=1e-5, atol=1e-7)
            moved = max(moved, (first - second).abs().max().item())
    assert moved > 1e-5


def test_progress_is_told_once(on_two):
    assert on_two[0].count("Testing: 1/") == 1


def test_parameters_that_no_loss_depends_on_stop_no_step(command):
    """As those of predicted normals where neither a material nor a loss asks for them."""
    unused = ["system.geometry.normal_type=pred", "system.material_type=no-material"]
    unused += ["system.loss.lambda_orient=0", "system.weights=null", "trainer.max_steps=3"]
    log, folder = launch(command("unused", *TWO, *unused, "trainer.val_check_interval=2"))
    assert torch.load(folder / "ckpts" / "last.ckpt", weights_only=True)["global_step"] == 3
    assert (folder / "save" / "it2-val.png").is_file()
    assert "Warning" not in log and "Using `DistributedSampler`" not in log


def test_another_number_of_devices_is_told_with_what_it_changes(on_two, caplog):
    caplog.set_level("INFO", logger="pytorch_lightning.utilities.rank_zero")
    run(["--train", f"resume={on_two[1]}", "trainer.max_steps=2", "trainer.devices=1"])
    assert "On 1 device, before on 2: a step sees 1 x data.batch_size views" in caplog.text
