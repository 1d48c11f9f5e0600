"""Optimizers and schedules from configs."""

import pytest
import torch
from omegaconf import OmegaConf
from threestudio.systems.utils import parse_optimizer, parse_scheduler


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.geometry = torch.nn.ModuleDict(
            {"encoding": torch.nn.Linear(2, 2), "network": torch.nn.Linear(2, 2)}
        )
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.background = torch.nn.Identity()  # a group without parameters
        self.number = 3


def optimizer(**config):
    return parse_optimizer(OmegaConf.create({"name": "SGD", "args": {"lr": 1.0}} | config), Model())


def test_groups_are_named_and_have_their_own_arguments():
    found = optimizer(
        name="AdamW",
        args={"betas": [0.9, 0.99], "eps": 1e-15},
        params={"geometry.encoding": {"lr": 0.01}, "background": {"lr": 1}, "scale": {"lr": 0.1}},
    )
    groups = found.param_groups
    names = ["geometry.encoding", "background", "scale"]
    assert [(g["name"], g["lr"]) for g in groups] == list(zip(names, [0.01, 1, 0.1], strict=True))
    assert [len(g["params"]) for g in groups] == [2, 0, 1]
    assert isinstance(found, torch.optim.AdamW) and groups[0]["eps"] == 1e-15
    assert type(groups[0]["betas"]) in (list, tuple)  # plain, as checkpoints hold plain data


def test_without_groups_everything_is_trained():
    assert sum(len(group["params"]) for group in optimizer().param_groups) == 5


@pytest.mark.parametrize(
    "config, text",
    [
        ({"name": "AdamWW"}, r"optimizer\.name='AdamWW' is unknown: did you mean AdamW"),
        ({"name": None}, r"optimizer\.name='None' is unknown"),
        ({"args": {"lr": 1.0, "beta": 1}}, r"optimizer\.args=.* does not fit SGD: .*'beta'"),
        ({"params": {"geometri": {}}}, r"optimizer\.params\.geometri: Model has no 'geometri'; it"),
        ({"params": {"number": {}}}, r"optimizer\.params\.number is a int: name a module"),
    ],
)
def test_mistakes_are_told_with_the_key(config, text):
    root = OmegaConf.create({"optimizer": {"name": "SGD", "args": {"lr": 1.0}} | config})
    with pytest.raises(ValueError, match=text):
        parse_optimizer(root.optimizer, Model())


def rates(config, steps):
    sgd = optimizer()
    described = parse_scheduler(OmegaConf.create(config), sgd)
    found = []
    for _ in range(steps):
        found.append(sgd.param_groups[0]["lr"])
        sgd.step()
        described["scheduler"].step()
    return found, described["interval"]


def test_a_schedule_follows_its_class():
    config = {"name": "ExponentialLR", "interval": "step", "args": {"gamma": 0.5}}
    assert rates(config, 3) == ([1.0, 0.5, 0.25], "step")
    milestones = {"name": "MultiStepLR", "args": {"milestones": [1, 3], "gamma": 0.1}}
    assert rates(milestones, 4)[0] == pytest.approx([1.0, 0.1, 0.1, 0.01])
    assert rates(milestones, 1)[1] == "epoch"


def test_mistakes_about_schedules_are_told():
    with pytest.raises(ValueError, match="interval='minute' is unknown"):
        rates({"name": "StepLR", "interval": "minute", "args": {"step_size": 1}}, 1)
    with pytest.raises(ValueError, match="name='StepRL' is unknown: did you mean StepLR"):
        rates({"name": "StepRL", "args": {"step_size": 1}}, 1)
    with pytest.raises(ValueError, match="does not fit StepLR"):
        rates({"name": "StepLR", "args": {"size": 1}}, 1)


def test_a_group_inside_another_is_refused_with_the_way_to_write_it():
    params = {"geometry.encoding": {"lr": 0.01}, "geometry": {"encoding": {"lr": 0.02}}}
    with pytest.raises(ValueError, match=r"params\[geometry\.encoding\]\.lr"):
        optimizer(params=params)
