"""Numbers that change over training."""

import pytest
from omegaconf import OmegaConf
from threestudio_jointdreamer.step_schedule import StepSchedule


@pytest.mark.parametrize(
    ("value", "step", "expected"),
    [
        (7.5, 123, 7.5),
        ([0.0, 1.0, 10], 5, 0.5),
        ([10, 0.0, 1.0, 20], 5, 0.0),
        ([10, 0.0, 1.0, 20], 15, 0.5),
        ([10, 0.0, 1.0, 20], 99, 1.0),
        ([0, 0.0, 1.0, 10, 3.0, 20], 5, 0.5),
        ([0, 0.0, 1.0, 10, 3.0, 20], 15, 2.0),
        ([0, 0.0, 1.0, 10, 3.0, 20], 30, 3.0),
    ],
)
def test_values_follow_the_step(value, step, expected):
    assert StepSchedule(value, "key")(epoch=0, global_step=step) == pytest.approx(expected)


def test_a_config_list_is_a_schedule():
    cfg = OmegaConf.create({"weight": [0, 2.0, 4.0, 10]})
    assert StepSchedule(cfg.weight, "key")(epoch=0, global_step=5) == 3.0


def test_float_steps_count_epochs():
    schedule = StepSchedule([0, 0.0, 1.0, 4.0], "key")
    assert schedule(epoch=1, global_step=4000) == 0.25


@pytest.mark.parametrize(
    "value",
    [[], [1.0], [1, 2], [0, 1.0, 2.0, 3, 4.0], [0, 1.0, 2.0, 3, 4.0, 5, 6.0], "7.5", None, True]
    + [[0, "a", 1.0, 5], [0, 1.0, None, 5], {"start": 1}],
)
def test_any_other_form_is_refused_with_key_value_and_forms(value):
    with pytest.raises(ValueError, match=r"system\.x=.*no schedule.*\[start_step, start_value"):
        StepSchedule(value, "system.x")


@pytest.mark.parametrize("value", [[5, 0.0, 1.0, 5], [9, 0.0, 1.0, 5], [0, 0.0, 1.0, 9, 2.0, 3]])
def test_steps_must_increase(value):
    with pytest.raises(ValueError, match=r"system\.x=.*do not increase"):
        StepSchedule(value, "system.x")


@pytest.mark.parametrize("value", [1.5, -0.1, [0, 0.5, 1.5, 9], float("nan")])
def test_values_outside_of_the_range_are_refused(value):
    with pytest.raises(ValueError, match=r"system\.x.*=.* is out of range: .* in \[0, 1\]"):
        StepSchedule(value, "system.x", within="[0, 1]")


@pytest.mark.parametrize("value", [float("inf"), [0, 1.0, float("nan"), 9], [0, 1, 2, 1e400]])
def test_values_and_steps_are_finite(value):
    with pytest.raises(ValueError, match=r"system\.x.*=(inf|nan) is out of range"):
        StepSchedule(value, "system.x")


@pytest.mark.parametrize("value", [0.5, [9, 1.0, 2.0, 19], [4, 1.0, 2.0, 9, 0.5, 14, 3.0, 18]])
@pytest.mark.parametrize("step", [0, 1, 4, 10, 15, 40])
def test_held_from_a_step_it_is_as_before_until_there(value, step):
    schedule = StepSchedule(value, "system.x", within="[0, 9]")
    held = schedule.held_from(step, 7.0)
    before = [schedule(0, at) for at in range(step)]
    assert [held(0, at) for at in range(step)] == pytest.approx(before)
    assert held(0, step) == held(0, step + 50) == 7.0
    assert held.held_from(step, 8.0)(0, step) == 8.0
    with pytest.raises(ValueError, match=r"system\.x.* is out of range"):
        held.held_from(step, 10.0)


def test_a_schedule_in_epochs_cannot_be_held_from_a_step():
    with pytest.raises(ValueError, match=r"system\.x=.* counts epochs: change it in the config"):
        StepSchedule([0, 0.0, 1.0, 4.0], "system.x").held_from(5, 1.0)
