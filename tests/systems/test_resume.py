"""A run that is killed at any point and resumed ends with the weights of one that never was."""

import signal

import pytest
from helpers.killed_runs import play
from helpers.tiny_run import FADING, SWITCH, write_tiny_config

STEPS = 18
# resumed before the CFG switch, between it and the fading, and where the occupancy grid is updated
KILLED_AT = (SWITCH, FADING, 17)
# when the film is written, and between the files that are put in place; when the mesh is written
AT_OUTPUTS = {
    "kills": [("replace", 1, ".mp4", "SIGTERM"), ("replace", 4, ".png")],
    "exports": [("replace", 1, ".glb")],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, sd_folder, mv_folder):
    folder = tmp_path_factory.mktemp("killed")
    changes = {"trainer": {"max_steps": STEPS}, "data": {"n_test_views": 2}}
    changes["system"] = {"exporter": {"texture_size": 64}}
    config = write_tiny_config(folder / "config.yaml", sd_folder, mv_folder, **changes)
    cases = {"outputs": AT_OUTPUTS} | {str(step): {"kills": [step]} for step in KILLED_AT}
    cases = {name: {"config": str(config), **case} for name, case in cases.items()}
    return play(folder, cases, "threestudio_jointdreamer")


@pytest.mark.parametrize("step", KILLED_AT)
def test_killed_and_resumed_run_ends_with_the_same_weights_and_optimizer(runs, step):
    killed, whole = runs[str(step)]["killed"], runs[str(step)]["whole"]
    assert killed["codes"] == [-signal.SIGKILL, 0] and whole["codes"] == [0, 0]
    assert killed["resumed from"][1] and killed["step"] == whole["step"] == STEPS
    assert killed["weights"] == whole["weights"]
    assert killed["outputs"].items() <= whole["outputs"].items()


def test_pictures_film_and_mesh_are_whole_whenever_it_is_killed(runs):
    killed, whole = runs["outputs"]["killed"], runs["outputs"]["whole"]
    assert killed["codes"] == [143, -signal.SIGKILL, 0, -signal.SIGKILL, 0]
    assert {"save/it18-test.mp4", "save/it18-export/model.glb"} <= whole["outputs"].keys()
    assert killed["outputs"] == whole["outputs"] and killed["weights"] == whole["weights"]
    assert killed["left"] == whole["left"] == []
