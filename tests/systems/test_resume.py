"""A run that is killed at any point and resumed ends with the weights of one that never was."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.tiny_run import FADING, SWITCH, write_tiny_config

STEPS = 18
# resumed before the CFG switch, between it and the fading, and where the occupancy grid is updated
KILLED_AT = (SWITCH, FADING, 17)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, sd_folder, mv_folder):
    folder = tmp_path_factory.mktemp("killed")
    changes = {"trainer": {"max_steps": STEPS}, "data": {"n_test_views": 2}}
    config = write_tiny_config(folder / "config.yaml", sd_folder, mv_folder, **changes)
    script = Path(__file__).parents[1] / "helpers" / "killed_runs.py"
    done = subprocess.run(
        [sys.executable, str(script), str(config), str(folder), *map(str, KILLED_AT)],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return {
        name: torch.load(folder / f"{name}.ckpt", weights_only=True)
        for name in ("whole", *(f"killed-{step}" for step in KILLED_AT))
    }


@pytest.mark.parametrize("step", KILLED_AT)
def test_killed_and_resumed_run_ends_with_the_same_weights_and_optimizer(checkpoints, step):
    whole, resumed = checkpoints["whole"], checkpoints[f"killed-{step}"]
    assert resumed["global_step"] == whole["global_step"] == STEPS
    assert whole["state_dict"].keys() == resumed["state_dict"].keys()
    for key, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][key]), key
    whole, resumed = (run["optimizer_states"][0] for run in (whole, resumed))
    assert whole["param_groups"] == resumed["param_groups"]
    for index, state in whole["state"].items():
        for key, value in state.items():
            assert torch.equal(value, resumed["state"][index][key]), (index, key)
