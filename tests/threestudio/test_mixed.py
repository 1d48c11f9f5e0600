"""jsd-guidance in other people's systems, by configs/mixed alone, in the real threestudio.

The priors are random, of all blocks of the published ones at a tenth of their width and of their
picture sizes; with MIXED_PRIORS=full of the published sizes. MIXED_CSV=FILE writes the table of
docs/threestudio.md.
"""

import math
import os

import pytest
import torch
from helpers.full_size import build_pipelines
from helpers.mixed_runs import (
    MIXED,
    SAME_FORMULA,
    differences,
    environment,
    overrides,
    read_log,
    relative_difference,
    with_energy,
    with_their_guidance,
)

from benchmarks.measure import device_name
from jointdreamer.csv_table import write_csv

STEPS = 50
TIMED_STEPS = 25
COMPARED_STEPS = 5
TOLERANCE = 1e-4  # of the first step's loss, in fp32
FP32 = {"NVIDIA_TF32_OVERRIDE": "0"}  # a GPU's convolutions round to ten bits by default
PROMPTS = {
    f"system.prompt_processor.{k}" for k in ("pretrained_model_name_or_path", "negative_prompt")
}
COLUMNS = (
    *("config", "system", "steps", "energy_grad_norm_first", "energy_grad_norm_last"),
    *("loss_ours_lambda_0", "loss_theirs", "relative_difference", "largest_difference"),
    *("seconds_per_step", "seconds_per_step_relative", "priors", "device", "note"),
)

each_config = pytest.mark.parametrize("mixed", MIXED, ids=lambda mixed: mixed.name)


@pytest.fixture(scope="module")
def priors(tmp_path_factory):
    size = os.environ.get("MIXED_PRIORS", "reduced")
    return build_pipelines(tmp_path_factory.mktemp("priors"), size)


@pytest.fixture(scope="module")
def table(priors):
    """A row for each config, written at the end where MIXED_CSV says so."""
    rows: dict[str, dict] = {}
    yield rows
    if rows and "MIXED_CSV" in os.environ:
        same = {"priors": priors.size, "device": device_name()}
        known = {
            mixed.name: {"config": mixed.name, "system": mixed.system, "note": mixed.note}
            for mixed in MIXED
        }
        blank = dict.fromkeys(COLUMNS, "")
        write_csv(
            os.environ["MIXED_CSV"],
            [blank | same | known[name] | row for name, row in rows.items()],
        )


@pytest.fixture
def run(launch, tmp_path, priors):
    """Launches a config, ours or with threestudio's guidance, and reads its log."""

    def run(mixed, steps, *more, theirs=False, **env):
        path = with_their_guidance(mixed, tmp_path) if theirs else mixed.path
        args = ["--config", path, "--train", *overrides(priors, steps), *more]
        outputs = f"exp_root_dir={tmp_path / ('theirs' if theirs else 'ours')}"
        launched = launch(
            [*args, outputs], extensions=mixed.extensions, env=environment(mixed) | env
        )
        log = read_log(launched)
        assert len(log.loss) == steps, f"{len(log.loss)} steps of {steps} in {launched.trial_dir}"
        assert all(map(math.isfinite, log.loss))
        return launched, log

    return run


@each_config
def test_the_rest_is_as_the_systems_own_config(mixed, views):
    not_ours = {
        key
        for key in differences(mixed, views(*mixed.extensions))
        if not key.startswith(("system.guidance", "system.loggers"))
    }
    assert not_ours <= PROMPTS


@each_config
def test_trains_with_an_energy_that_pulls_at_every_step(mixed, run, table, priors):
    launched, log = run(mixed, STEPS, *with_energy(priors))
    norms = log.energy_grad_norm
    assert len(norms) == STEPS
    assert all(math.isfinite(norm) and norm > 0 for norm in norms)
    assert list(launched.save_dir.glob(f"it{STEPS}-test/*.png"))
    state = torch.load(launched.ckpt, map_location="cpu", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in state.values())

    _, theirs = run(mixed, TIMED_STEPS, theirs=True)
    row = table.setdefault(mixed.name, {})
    row |= {"steps": STEPS, "seconds_per_step": f"{log.seconds:.3f}"}
    row |= {"seconds_per_step_relative": f"{log.seconds / theirs.seconds:.2f}"}
    row |= {f"energy_grad_norm_{at}": f"{norms[i]:.4g}" for at, i in (("first", 0), ("last", -1))}


@each_config
def test_without_the_energy_its_loss_is_that_of_threestudios_guidance(mixed, run, table, priors):
    """At n_view=1, where both draw a timestep for each view.

    Later steps are reported and not judged: the order of a GPU's additions is left to chance, and
    Adam makes full steps of the smallest gradients.
    """
    _, ours = run(mixed, COMPARED_STEPS, *with_energy(priors, 0.0), *SAME_FORMULA, **FP32)
    _, theirs = run(mixed, COMPARED_STEPS, *SAME_FORMULA, theirs=True, **FP32)
    assert not ours.energy_grad_norm
    differences = [relative_difference(*pair) for pair in zip(ours.loss, theirs.loss, strict=True)]
    row = table.setdefault(mixed.name, {})
    row |= {"loss_ours_lambda_0": f"{ours.loss[0]:.8g}", "loss_theirs": f"{theirs.loss[0]:.8g}"}
    row |= {"relative_difference": f"{differences[0]:.1e}"}
    row |= {"largest_difference": f"{max(differences):.1e}"}
    assert differences[0] < TOLERANCE
