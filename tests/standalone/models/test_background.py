"""Solid and neural backgrounds, and their random colours."""

import random

import pytest
import threestudio
import torch
import torch.nn.functional as F


@pytest.fixture
def dirs():
    return F.normalize(torch.randn(3, 4, 5, 3, generator=torch.Generator().manual_seed(0)), dim=-1)


def make(name: str, **config):
    return threestudio.find(f"{name}-background")(config)


def plain_colours(color: torch.Tensor) -> torch.Tensor:
    """The colour of each view [B 3], which must be the same for all its pixels."""
    torch.testing.assert_close(color, color[:, :1, :1].expand_as(color))
    return color[:, 0, 0]


def test_solid_colour_is_the_same_in_all_directions(dirs):
    color = make("solid-color", color=[0.1, 0.2, 0.3])(dirs)
    torch.testing.assert_close(plain_colours(color), torch.tensor([[0.1, 0.2, 0.3]]).repeat(3, 1))
    assert list(make("solid-color").state_dict()) == ["env_color"]


def test_solid_colour_of_wrong_length_is_named():
    with pytest.raises(ValueError, match=r"system.background.color=\[1, 2\]"):
        make("solid-color", color=[1, 2])


def test_neural_background_is_a_function_of_the_direction(dirs):
    background = make("neural-environment-map")
    color = background(dirs)
    assert color.shape == dirs.shape and 0 < color.min() and color.max() < 1
    assert color.std(dim=(0, 1, 2)).min() > 0
    torch.testing.assert_close(background(dirs.flip(0)), color.flip(0))
    torch.testing.assert_close(background(dirs[:1, :, 2:4]), color[:1, :, 2:4])  # not contiguous
    color.sum().backward()
    assert all(p.grad is not None for p in background.network.parameters())


def test_swapped_colours_keep_the_parameters_in_the_graph(dirs):
    background = make("neural-environment-map", random_aug=True, random_aug_prob=1.0)
    background(dirs).sum().backward()
    parameters = [p for p in background.parameters() if p.numel()]
    assert parameters and all(p.grad is not None and not p.grad.any() for p in parameters)


def test_eval_colour_holds_outside_training_only(dirs):
    background = make("neural-environment-map", eval_color=[1.0, 0.5, 0.0])
    assert plain_colours(background.eval()(dirs)).tolist() == [[1.0, 0.5, 0.0]] * 3
    assert background.train()(dirs).std(dim=(0, 1, 2)).min() > 0


def test_random_draws_are_threestudios(dirs):
    """One number of `random` says whether; torch then draws [B 1 1 3] on the CPU."""
    background = make("solid-color", random_aug=True)
    random.seed(0)
    torch.manual_seed(9)
    colors = [background(dirs) for _ in range(20)]
    draws = random.Random(0)
    torch.manual_seed(9)
    for color in colors:
        plain = torch.rand(3, 1, 1, 3) if draws.random() < 0.5 else torch.ones(3, 1, 1, 3)
        assert torch.equal(color, plain.expand_as(dirs))
    assert random.random() == draws.random()
    background.eval()
    assert all(torch.equal(background(dirs), torch.ones_like(dirs)) for _ in range(20))
