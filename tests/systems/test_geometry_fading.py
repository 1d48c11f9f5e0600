"""Geometry fading as a pure function of the step, and what an optimizer makes of it."""

import pytest
import torch
from threestudio.utils.config import parse_structured
from threestudio_jointdreamer.systems.geometry_fading import (
    GeometryFading,
    GeometryFadingConfig,
    stepping_with,
)

GROUPS = ("geometry.encoding", "geometry.density_network", "background")


def fading(**block) -> GeometryFading:
    return GeometryFading(parse_structured(GeometryFadingConfig, block), GROUPS)


def two_groups(lr: float = 0.5) -> torch.optim.Optimizer:
    groups = [
        {"params": [torch.nn.Parameter(torch.ones(1))], "name": name, "lr": lr}
        for name in ("geometry.encoding", "background")
    ]
    return torch.optim.SGD(groups)


def test_rate_falls_at_start_step():
    fade = fading(start_step=5, lr={"geometry.encoding": 1e-6})
    assert fade.rate("geometry.encoding", 0.01, 4) == 0.01
    assert fade.rate("geometry.encoding", 0.01, 5) == 1e-6
    assert fade.rate("background", 0.01, 5) == 0.01


def test_ramp_is_linear_between_start_and_end():
    fade = fading(start_step=10, end_step=20, lr={"geometry.encoding": 0.0})
    rates = [fade.rate("geometry.encoding", 1.0, step) for step in (10, 15, 20, 30)]
    assert rates == [1.0, 0.5, 0.0, 0.0]


def test_orientation_is_off_from_start_step_if_asked():
    assert not fading(start_step=5).orientation_is_off(4)
    assert fading(start_step=5).orientation_is_off(5)
    assert not fading(start_step=5, disable_orientation=False).orientation_is_off(5)


def test_only_the_named_groups_move_slowly_and_the_optimizer_keeps_its_own_rates():
    optimizer = two_groups()
    before = optimizer.state_dict()
    fade = fading(start_step=0, lr={"geometry.encoding": 0.25})
    for group in optimizer.param_groups:
        group["params"][0].grad = torch.ones(1)
    with pytest.raises(RuntimeError), stepping_with(optimizer, fade.rates(optimizer, 0)):
        optimizer.step()
        raise RuntimeError
    moved = [1.0 - group["params"][0].item() for group in optimizer.param_groups]
    assert moved == [0.25, 0.5]
    assert optimizer.state_dict() == before


def test_a_scheduler_decides_what_the_ramp_starts_from():
    optimizer = two_groups(lr=1.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    fade = fading(start_step=0, end_step=2, lr={"geometry.encoding": 0.0})
    seen = []
    for step in range(3):
        rates = fade.rates(optimizer, step)
        with stepping_with(optimizer, rates):
            optimizer.step()
        scheduler.step()
        seen.append(rates["geometry.encoding"])
    assert seen == [1.0, 0.25, 0.0]
    assert optimizer.param_groups[0]["lr"] == 0.125


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"lr": {"geometry.encodin": 0.1}}, r"lr\.geometry\.encodin .*geometry\.encoding, geom"),
        ({"start_step": 9, "end_step": 9}, r"end_step=9 must come after start_step=9"),
        ({"start": 9}, "start"),
    ],
)
def test_mistakes_are_named(block, message):
    with pytest.raises(ValueError, match=message):
        fading(**block)
