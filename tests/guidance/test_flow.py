"""JSD on a rectified flow, written in its velocity: DESIGN's equations for Stable Diffusion 3."""

import pytest
import torch
from threestudio_jointdreamer.guidance.classifier_free import Prompts
from threestudio_jointdreamer.guidance.jsd import JointScoreDistillation
from threestudio_jointdreamer.priors.latent_prior import split_pooled
from threestudio_jointdreamer.priors.loading import load_prior

from jointdreamer.testing.prompts import RandomPrompts
from jointdreamer.testing.random_priors import build_sd3

S, LAMBDA = 5.0, 0.7


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """A tiny Stable Diffusion 3 in float64."""
    folder = build_sd3(tmp_path_factory.mktemp("priors") / "sd3")
    prior = load_prior(str(folder), torch.device("cpu"))
    prior.unet.double()
    prior.dtype = torch.float64
    return prior


@pytest.fixture
def inputs(angles):
    generator = torch.Generator().manual_seed(0)
    x, eps = torch.randn(2, 8, 16, 16, 16, generator=generator).double()
    prompts = RandomPrompts(length=24 + 1, width=96)
    for name in ("text_embeddings", "uncond_text_embeddings", "direction"):
        setattr(prompts, name, getattr(prompts, name).double())
    prompts = Prompts.for_views(prompts, *angles, view_dependent=True)
    return x, eps, torch.tensor([200] * 4 + [900] * 4), prompts


def velocity(flow, x_t, t, text):
    text, pooled = split_pooled(text, 64)
    return flow.unet(x_t, text, pooled, flow.schedule.model_time(t)).sample


@pytest.mark.parametrize("gradient", ["denoised", "unet"])
def test_gradient_is_the_flows(flow, inputs, coherence, gradient):
    x, eps, t, prompts = inputs
    method = JointScoreDistillation(S, LAMBDA, "uniform", energy_gradient=gradient)

    def energy(x0_hat, *_):
        return coherence.of(x0_hat.unflatten(0, (2, 4)))

    ours = method(x, t, flow, prompts, energy, eps)
    sigma = flow.schedule.sigmas.double()[t].view(-1, 1, 1, 1)
    x_t = ((1 - sigma) * x + sigma * eps).requires_grad_()
    v_text, v_none = (velocity(flow, x_t, t, text) for text in (prompts.text, prompts.uncond))
    v_hat = (1 + S) * v_text - S * v_none
    x0_hat = x_t - sigma * (v_none.detach() if gradient == "denoised" else v_none)
    g = torch.autograd.grad(energy(x0_hat).sum(), x_t)[0]
    expected = v_hat - LAMBDA * sigma / (1 - sigma) * g - (eps - x)
    torch.testing.assert_close(ours.x0_hat, x0_hat.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.grad, expected.detach(), rtol=1e-5, atol=1e-5)

    plain = JointScoreDistillation(S, 0.0, "uniform")(x, t, flow, prompts, energy, eps)
    torch.testing.assert_close(plain.grad, (v_hat - (eps - x)).detach(), rtol=1e-6, atol=1e-6)


def test_the_energys_gradient_in_the_noisy_latents_is_a_difference(flow, inputs, coherence):
    x, eps, t, prompts = inputs

    def C(x_t):
        sigma = flow.schedule.sigma(t, x_t)
        x0_hat = x_t - sigma * velocity(flow, x_t, t, prompts.uncond)
        return coherence.of(x0_hat.unflatten(0, (2, 4))).sum()

    def energy(x0_hat, *_):
        return coherence.of(x0_hat.unflatten(0, (2, 4)))

    method = JointScoreDistillation(S, LAMBDA, "uniform", energy_gradient="unet")
    g = method(x, t, flow, prompts, energy, eps).g
    x_t, step = flow.schedule.add_noise(x, eps, t), 1e-5
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        difference = (C(x_t + step * direction) - C(x_t - step * direction)) / (2 * step)
    torch.testing.assert_close((g * direction).sum(), difference, rtol=1e-6, atol=0)
