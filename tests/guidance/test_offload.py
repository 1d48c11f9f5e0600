"""`offload` gives the same numbers, from UNets that are only there while they compute."""

import sys

import pytest
import torch

WITH_ENERGY = {"energy_type": "jsd-multiview-energy", "energy_weight": 0.3}


@pytest.fixture
def settings(mv_folder):
    energy = {"pretrained_model_name_or_path": str(mv_folder), "noise": "shared"}
    return WITH_ENERGY | {"energy": energy}


def gradient(guidance, rgb, prompts, cameras):
    rgb = rgb.clone().requires_grad_()
    torch.manual_seed(3)
    return torch.autograd.grad(guidance(rgb, prompts, **cameras)["loss_sds"], rgb)[0]


def test_the_gradient_is_the_same(make_guidance, settings, rgb, prompts, cameras):
    expected = gradient(make_guidance(**settings), rgb, prompts, cameras)
    guidance = make_guidance(**settings, memory="low", offload=True)
    for prior in (guidance.prior, guidance.energy.model):
        assert prior.unet._hf_hook.execution_device == prior.device
        assert prior.graphs is None  # which would know the weights by their addresses
    found = gradient(guidance, rgb, prompts, cameras)
    assert (found - expected).norm() / expected.norm() < 1e-5


def test_what_needs_the_weights_in_their_place_is_refused(make_guidance, settings):
    with pytest.raises(ValueError, match="Choose energy_gradient=denoised"):
        make_guidance(**settings, energy_gradient="unet", offload=True)


def test_a_missing_package_is_named(make_guidance, settings, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ValueError, match=r"offload=true needs accelerate: pip install .*\[offload"):
        make_guidance(**settings, offload=True)
