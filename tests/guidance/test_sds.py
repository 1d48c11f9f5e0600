"""Without an energy, Joint Score Distillation is Score Distillation Sampling."""

import pytest
import torch
from helpers.sds import sds_loss

S = 7.5


def loss_and_gradient(loss_of, rgb):
    rgb = rgb.clone().requires_grad_()
    torch.manual_seed(5)
    loss = loss_of(rgb)
    loss.backward()
    return loss.detach(), rgb.grad


@pytest.mark.parametrize("n_view", [1, 2, 4])
@pytest.mark.parametrize(
    "no_energy",
    [
        {"energy_type": "jsd-zero-energy", "energy_weight": 0.3125},
        {"energy_type": "jsd-zero-energy", "energy_weight": 1.0, "energy_gradient": "unet"},
        {"energy_type": "test-coherence-energy", "energy_weight": 0.0},
    ],
)
def test_no_energy_is_sds_bit_for_bit(
    make_guidance, prompts, cameras, angles, coherence, rgb, sd_folder, n_view, no_energy
):
    guidance = make_guidance(n_view=n_view, guidance_scale=S, **no_energy)
    ours = loss_and_gradient(lambda rgb: guidance(rgb, prompts, **cameras)["loss_sds"], rgb)
    sds = loss_and_gradient(lambda rgb: sds_loss(sd_folder, rgb, prompts, angles, S, n_view), rgb)
    assert torch.equal(ours[0], sds[0])
    assert torch.equal(ours[1], sds[1])
    assert sds[1].abs().max() > 0


def test_an_energy_makes_a_difference(
    make_guidance, prompts, cameras, angles, coherence, rgb, sd_folder
):
    """The guard of the test above: were the energy ignored, that one would pass as well."""
    guidance = make_guidance(guidance_scale=S, energy_type="test-coherence-energy")
    ours = loss_and_gradient(lambda rgb: guidance(rgb, prompts, **cameras)["loss_sds"], rgb)
    sds = loss_and_gradient(lambda rgb: sds_loss(sd_folder, rgb, prompts, angles, S, 4), rgb)
    assert (ours[1] - sds[1]).norm() > 0.01 * sds[1].norm()


@pytest.mark.parametrize("energy_gradient", ["denoised", "unet"])
def test_a_weight_of_zero_costs_no_energy_and_no_graph(
    make_guidance, prompts, cameras, coherence, rgb, monkeypatch, energy_gradient
):
    guidance = make_guidance(
        energy_type="test-coherence-energy",
        energy_weight=[600, 0.0, 0.3125, 601],
        energy_gradient=energy_gradient,
    )
    with_graph, forward = [], guidance.prior.unet.forward

    def spy(*args, **kwargs):
        out = forward(*args, **kwargs)
        with_graph.append(out.sample.requires_grad)
        return out

    monkeypatch.setattr(guidance.prior.unet, "forward", spy)
    guidance.update_step(0, 600)
    out = guidance(rgb, prompts, **cameras)
    assert coherence.evaluations == 0
    assert "energy" not in out
    guidance.update_step(0, 601)
    out = guidance(rgb, prompts, **cameras)
    assert coherence.evaluations == 1
    assert out["energy"].shape == () and out["energy_grad_norm"] > 0
    assert with_graph == [False, energy_gradient == "unet"]  # and one UNet call per step
