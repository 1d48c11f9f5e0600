"""The guidance stops at the first thing that is not finite, and names it."""

import pytest
import torch
from threestudio_jointdreamer.energies import Energy

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_an_energy_that_is_not_finite_is_named(
    make_guidance, prompts, cameras, rgb, register, value
):
    @register("test-broken-energy")
    class Broken(Energy):
        def __call__(self, views):
            return views.denoised.sum(dim=(1, 2, 3, 4)) * 0 + value

    guidance = make_guidance(energy_type="test-broken-energy", energy_weight=1.0)
    guidance.update_step(0, 7)
    with pytest.raises(ValueError, match="step 7: the energy is not finite.*test-broken-energy"):
        guidance(rgb, prompts, **cameras)


def test_a_gradient_of_the_energy_that_is_not_finite_is_named(
    make_guidance, prompts, cameras, rgb, register
):
    @register("test-steep-energy")
    class Steep(Energy):
        def __call__(self, views):
            return (views.denoised * 0).sqrt().sum(dim=(1, 2, 3, 4))

    guidance = make_guidance(energy_type="test-steep-energy", energy_weight=1.0)
    with pytest.raises(ValueError, match="the energy's gradient is not finite"):
        guidance(rgb, prompts, **cameras)


@pytest.mark.parametrize(("part", "named"), [("unet", "prediction"), ("vae", "encoding")])
def test_weights_of_a_prior_that_are_not_finite_are_named(
    make_guidance, prompts, cameras, rgb, part, named
):
    guidance = make_guidance()
    model = guidance.prior.unet if part == "unet" else guidance.prior.vae.encoder
    weight = model.conv_in.weight
    weight.data = weight.data.clone()  # else other models' too, which share it
    weight.data[0, 0, 0, 0] = NAN
    with pytest.raises(ValueError, match=f"the prior's {named}.*pretrained_model_name_or_path"):
        guidance(rgb, prompts, **cameras)


@pytest.mark.parametrize("value", [NAN, INF])
def test_the_render_is_asked_first(make_guidance, prompts, cameras, rgb, value):
    rgb[3, 0, 0, 0] = value
    with pytest.raises(ValueError, match="step 0: the render is not finite.*learning rates"):
        make_guidance()(rgb, prompts, **cameras)


def test_what_is_finite_passes_however_large(make_guidance, prompts, cameras, rgb):
    out = make_guidance(guidance_scale=1e6)(rgb.requires_grad_(), prompts, **cameras)
    out["loss_sds"].backward()
    assert torch.isfinite(out["loss_sds"]) and rgb.grad.abs().max() > 0
