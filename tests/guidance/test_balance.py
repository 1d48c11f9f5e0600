"""`energy_weight: auto` gives the energy its share of the guidance, whatever unit it is in."""

import pytest
import torch
from threestudio_jointdreamer.energies import Energy
from threestudio_jointdreamer.guidance.balance import EnergyWeight

STEPS = {"min_step_percent": 0.1, "max_step_percent": 0.6}


@pytest.fixture
def distil(make_guidance, prompts, cameras, rgb, coherence):
    def distil(**cfg):
        cfg = {"energy_type": "test-coherence-energy", **STEPS} | cfg
        guidance = make_guidance(**cfg)
        torch.manual_seed(0)
        return guidance, guidance.distil(rgb, prompts, cameras)[1]

    return distil


@pytest.mark.parametrize("gradient", ["denoised", "unet"])
def test_the_pull_is_the_share_of_what_the_guidance_moves_in_the_latents(distil, gradient):
    guidance, found = distil(energy_weight=["auto", 0.7], energy_gradient=gradient)
    a = guidance.prior.schedule.alphas_cumprod.double()[found.t].view(-1, 1, 1, 1)
    residual = (found.eps_hat - found.eps).double()
    moved = (((1 - a) / a).sqrt() * residual).unflatten(0, (2, 4)).flatten(1).norm(dim=1)
    lam = found.energy_weight.double()
    pull = (lam * a.sqrt() * found.g).unflatten(0, (2, 4)).flatten(1).norm(dim=1)
    torch.testing.assert_close(pull, 0.7 * moved, rtol=1e-6, atol=0)  # of single precision
    of_objects = lam.view(2, 4)
    assert (of_objects == of_objects[:, :1]).all() and of_objects[0, 0] != of_objects[1, 0]
    expected = (1 - a) * (residual - lam * (1 - a).sqrt() * found.g)
    torch.testing.assert_close(found.grad.double(), expected, rtol=1e-4, atol=1e-5)


def test_an_energy_in_another_unit_gives_the_same_gradient(distil, register, coherence):
    @register("test-scaled-energy")
    class Scaled(Energy):
        def __call__(self, views):
            return 1000 * coherence.of(views.denoised)

    (_, one), (_, other) = (
        distil(energy_weight="auto", **cfg) for cfg in ({}, {"energy_type": "test-scaled-energy"})
    )
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.energy_weight, 1000 * other.energy_weight)


def test_without_a_share_or_a_pull_it_is_sds(distil, register, coherence):
    _, sds = distil(energy_weight=0.0)
    _, without = distil(energy_weight=["auto", 5, 0.0, 1.0, 6])
    assert coherence.evaluations == 0 and torch.equal(without.grad, sds.grad)

    @register("test-flat-energy")
    class Flat(Energy):
        def __call__(self, views):
            return 0 * views.denoised.sum(dim=(1, 2, 3, 4))

    _, flat = distil(energy_weight="auto", energy_type="test-flat-energy")
    assert torch.equal(flat.grad, sds.grad) and not flat.energy_weight.any()


def test_the_weight_is_logged_and_a_share_held_from_a_step(make_guidance, prompts, cameras, rgb):
    guidance = make_guidance(energy_type="jsd-zero-energy", energy_weight="auto")
    assert guidance(rgb, prompts, **cameras)["energy_weight"] == 0  # it has no gradient
    held = guidance.schedules["energy_weight"].held_from(10, 0.25)
    assert held.value == ["auto", 9, 0.5, 0.25, 10]
    assert (held(0, 9), held(0, 10)) == (0.5, 0.25)
    assert EnergyWeight(0.5, "energy_weight").held_from(10, 0.25).value == [9, 0.5, 0.25, 10]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("automatic", r"energy_weight='automatic' is no schedule.*, or auto, or \[auto, 0.5\]"),
        (["auto", 1.0, 2.0], r"energy_weight=\[1.0, 2.0\] is no schedule"),
        (["auto", -1.0], r"energy_weight=-1.0 is out of range: .* \[0, inf\)"),
        (["auto", "much"], "energy_weight='much' is no schedule"),
    ],
)
def test_a_malformed_share_is_refused(make_guidance, value, message):
    with pytest.raises(ValueError, match=message):
        make_guidance(energy_weight=value)
