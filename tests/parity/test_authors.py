"""jsd-guidance with configs/authors*.yaml gives the loss and the gradient of the authors' code.

The fixture was made by their checkout (`python -m benchmarks.parity.authors --write-fixture`).
"""

import os
from pathlib import Path

import pytest
from helpers.authors_recipe import (
    HALF_BATCH,
    MESH,
    REFINEMENT,
    START_NEGATIVE,
    STEPS,
    first_stage,
)
from omegaconf import OmegaConf
from threestudio.utils.config import parse_structured
from threestudio_jointdreamer.data.multiview_camera import (
    MultiviewCameraConfig,
    ResolutionSchedule,
)
from threestudio_jointdreamer.step_schedule import StepSchedule

from benchmarks.parity.authors import (
    CASES,
    ENVIRONMENT,
    ROOT,
    TARGET,
    Authors,
    compare_with_fixture,
    run_ours,
)
from benchmarks.parity.seeded import relative_errors


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_are_the_authors(case):
    errors = compare_with_fixture(case)
    assert max(errors.values()) < TARGET


@pytest.mark.parametrize(
    "changes",
    [
        {"energy": {"mask_with_opacity": True}},
        {"energy": {"view_dependent_prompting": False}},
        {"energy": {"recon_std_rescale": 0.4}},
        {"energy_weight": 0.3126},
    ],
    ids=str,
)
def test_every_switch_is_seen(changes):
    errors = compare_with_fixture("with the energy and the mask", changes)
    assert errors["gradient"] > 10 * TARGET


@pytest.mark.skipif(ENVIRONMENT not in os.environ, reason=f"{ENVIRONMENT} names no checkout")
def test_the_checkout_agrees_everywhere():
    authors = Authors(os.environ[ENVIRONMENT])
    for case in CASES.values():
        ours = run_ours(case, authors.mv_unet, authors.mv_vae)
        assert max(relative_errors(ours, authors.run(case)).values()) < TARGET


@pytest.mark.skipif(ENVIRONMENT not in os.environ, reason=f"{ENVIRONMENT} names no checkout")
@pytest.mark.parametrize(
    ("config", "steps", "expected"),
    [
        ("jointdreamer-5k", STEPS, first_stage),
        ("jointdreamer-refine", [1], lambda step: REFINEMENT),
        ("jointdreamer-dmtet", [1], lambda step: MESH),
    ],
)
def test_the_expected_numbers_are_those_of_the_checkouts_config(config, steps, expected):
    cfg = OmegaConf.load(Path(os.environ[ENVIRONMENT], "configs", f"{config}.yaml"))
    for step in steps:
        numbers = expected(step)
        theirs = numbers_of(cfg, step, 8 if step < HALF_BATCH else 4)
        assert {name: theirs.get(name) for name in numbers} == pytest.approx(numbers), step


def numbers_of(cfg, step: int, batch_size: int) -> dict[str, float]:
    """What a config of theirs says of a step, by the names under which ours are logged."""
    guidance = cfg.system.guidance

    def now(schedule):
        return StepSchedule(schedule, "key")(0, step)

    energy = guidance.extra_guid_wt if step > guidance.start_iter else 0
    groups = cfg.system.optimizer.get("params", {})
    return {
        "train/guidance_scale": now(guidance.guidance_scale),
        "train/energy_weight": energy / (2 * batch_size),
        "train/min_step": int(1000 * now(guidance.min_step_percent)),
        "train/max_step": int(1000 * now(guidance.max_step_percent)),
        **{f"train_params/{name}": now(value) for name, value in cfg.system.loss.items()},
        **{f"lr-AdamW/{name}": group.lr for name, group in groups.items()},
    }


@pytest.mark.parametrize("step", STEPS)
def test_the_numbers_of_a_step_are_the_authors(step):
    """As a run logs them: tests/threestudio/test_recipe.py reads the logs."""
    cfg = OmegaConf.load(ROOT / "configs" / "authors.yaml")
    guidance, loss = cfg.system.guidance, cfg.system.loss

    def now(schedule):
        return StepSchedule(schedule, "key")(0, step)

    found = {
        "train/guidance_scale": now(guidance.guidance_scale),
        "train/energy_weight": now(guidance.energy_weight),
        "train/min_step": int(1000 * now(guidance.min_step_percent)),
        "train/max_step": int(1000 * now(guidance.max_step_percent)),
        **{f"train_params/{name}": now(value) for name, value in loss.items()},
        **{f"lr-AdamW/{name}": group.lr for name, group in cfg.system.optimizer.params.items()},
    }
    assert found == pytest.approx(first_stage(step))
    sizes = ResolutionSchedule(parse_structured(MultiviewCameraConfig, cfg.data))
    assert sizes(step).batch_size == (8 if step < HALF_BATCH else 4)
    assert cfg.system.prompt_processor.start_neg == START_NEGATIVE
