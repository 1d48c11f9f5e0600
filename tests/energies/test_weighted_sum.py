"""Sums of energies, and energies of one's own."""

from dataclasses import dataclass

import pytest
import threestudio
import torch
from helpers.views import gradient
from threestudio_jointdreamer.energies import Energy


@pytest.fixture
def terms(register):
    """Two energies; `seen` counts their evaluations and keeps the steps they are told."""
    seen = {"power": 0, "step": None}

    @register("test-power-energy")
    class Power(Energy):
        @dataclass
        class Config(Energy.Config):
            power: int = 2

        def update_step(self, epoch, global_step, on_load_weights=False):
            seen["step"] = global_step

        def __call__(self, views):
            seen["power"] += 1
            return -(views.denoised**self.cfg.power).sum(dim=(1, 2, 3, 4))

        def predict(self, views):
            return torch.full_like(views.denoised, self.cfg.power)

    @register("test-mean-energy")
    class Mean(Energy):
        def __call__(self, views):
            return views.denoised.mean(dim=(1, 2, 3, 4))

    return seen


def make(**energies):
    return threestudio.find("jsd-sum-energy")({"energies": energies})


POWER = {"energy_type": "test-power-energy", "energy": {"power": 4}}
MEAN = {"energy_type": "test-mean-energy"}


def test_values_and_gradients_are_the_weighted_sums(terms, views):
    energy = make(a=POWER | {"energy_weight": 0.5}, b=MEAN | {"energy_weight": -3.0}, c=MEAN)
    x = views.denoised
    expected = -0.5 * (x**4).flatten(1).sum(1) - 2.0 * x.flatten(1).mean(1)
    torch.testing.assert_close(energy(views), expected)
    torch.testing.assert_close(gradient(energy(views), views), gradient(expected, views))


def test_terms_are_told_the_step_and_not_evaluated_while_their_weight_is_zero(terms, views):
    energy = make(a=POWER | {"energy_weight": [5, 0.0, 1.0, 6]}, b=MEAN)
    energy.do_update_step(0, 5)
    energy(views)
    assert energy.draw(views) is None
    assert terms == {"power": 0, "step": 5}
    energy.do_update_step(0, 6)
    energy(views)
    assert terms["power"] == 1


def test_a_sum_of_nothing_at_this_step_is_zero_with_a_gradient(terms, views):
    energy = make(a=POWER | {"energy_weight": 0.0})
    C = energy(views)
    assert torch.equal(C, torch.zeros(2))
    assert gradient(C, views).abs().max() == 0


def test_the_first_term_in_use_gives_the_pictures(terms, views):
    wanted = views.prior.decode(torch.full((1, 4, 16, 16), 4.0))[0].permute(1, 2, 0)
    torch.testing.assert_close(make(b=MEAN, a=POWER).draw(views)[1, 2], wanted)
    assert make(b=MEAN).draw(views) is None


def test_sums_nest(terms, views):
    inner = {"energy_type": "jsd-sum-energy", "energy": {"energies": {"a": POWER, "b": MEAN}}}
    nested = make(twice=inner | {"energy_weight": 2.0})
    torch.testing.assert_close(nested(views), 2 * make(a=POWER, b=MEAN)(views))


@pytest.mark.parametrize(
    ("energies", "message"),
    [
        ({}, "energy.energies={} names no term"),
        ({"a": {"energy": {}}}, "energy.energies.a.energy_type is required"),
        ({"a": POWER | {"weight": 2}}, "energy.energies.a.weight: .* mean 'energy_weight'"),
        ({"a": "test-power-energy"}, "energy.energies.a='test-power-energy' does not fit.* block"),
        ({"a": POWER | {"energy_weight": [1, 2]}}, "energy.energies.a.energy_weight=.*no schedule"),
        (
            {"a": {"energy_type": "nil"}},
            "energy.energies.a.energy_type='nil' is not registered: .*jsd-sum-energy.*test-mean",
        ),
    ],
)
def test_malformed_sums_are_refused_by_key(terms, energies, message):
    with pytest.raises(ValueError, match=message):
        make(**energies)
