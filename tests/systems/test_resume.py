"""A run that is killed at any point and resumed ends with the weights of one that never was."""

import signal

import pytest
from helpers.killed_runs import play
from helpers.tiny_run import FADING, SWITCH, write_tiny_config

STEPS = 18
# resumed before the CFG switch, between it and the fading, and where the occupancy grid is updated
KILLED_AT = (SWITCH, FADING, 17)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, sd_folder, mv_folder):
    folder = tmp_path_factory.mktemp("killed")
    changes = {"trainer": {"max_steps": STEPS}, "data": {"n_test_views": 2}}
    config = write_tiny_config(folder / "config.yaml", sd_folder, mv_folder, **changes)
    cases = {str(step): {"config": str(config), "kills": [step]} for step in KILLED_AT}
    return play(folder, cases, "threestudio_jointdreamer")


@pytest.mark.parametrize("step", KILLED_AT)
def test_killed_and_resumed_run_ends_with_the_same_weights_and_optimizer(runs, step):
    killed, whole = runs[str(step)]["killed"], runs[str(step)]["whole"]
    assert killed["codes"] == [-signal.SIGKILL, 0] and whole["codes"] == [0]
    assert killed["resumed from"][1] and killed["step"] == whole["step"] == STEPS
    assert killed["weights"] == whole["weights"]
