"""A case with a known optimum: a Gaussian prior per view and a quadratic coherence energy."""

import pytest
import torch
from threestudio_jointdreamer.energies import Energy

PRIOR_MEANS = torch.tensor([1.0, -0.5, 0.3, 2.0])  # of the four views
PRIOR_STD = 0.3
K, LAMBDA = 4.0, 0.8


class OwnMeans:
    """Prompts whose embedding is the mean of the prior of that view."""

    use_perp_neg = False
    text_embeddings = uncond_text_embeddings = torch.zeros(1, 24, 128)

    def get_text_embeddings(self, elevation, azimuth, camera_distances, view_dependent):
        means = PRIOR_MEANS[(azimuth / 90).round().long() % 4]
        return means.repeat(2).view(-1, 1, 1).expand(-1, 24, 128)


def optimum(alpha_bar, energy_gradient):
    """Where the views of one object end.

    The prior of view i is N(μ_i, s²). Noised, it is N(√ᾱ μ_i, v) with v = ᾱ s² + σ², hence

        ε_φ(x_t) = σ (x_t − √ᾱ μ_i) / v         x̂0 = μ_i + (ᾱ s²/v) (x_t/√ᾱ − μ_i),

    the same for text and no text, so that s (of CFG) does not matter. Energy
    C = −(k/2) Σ_i (x̂0_i − mean_j x̂0_j)² has ∂C/∂x̂0_i = −k (x̂0_i − mean). In expectation over ε,
    where x_t/√ᾱ is x, with d = x − μ and a = ᾱ s²/v, the gradient vanishes where

        √ᾱ d_i / v + λ k (x̂0_i − mean)' = 0,   x̂0_i = μ_i + a d_i,

    in which ' is the factor ∂x̂0/∂x_t: 1/√ᾱ for `denoised`, √ᾱ s²/v = a/√ᾱ for `unet`. Summed over
    the views, the mean of d is 0; with m_i = μ_i − mean μ and r = 1 or a, d_i ᾱ/v + λ k r (m_i +
    a d_i) = 0, thus

        d_i = −λ k r m_i / (ᾱ/v + λ k r a).

    For σ → 0 both are d_i = −m_i λ k s² / (1 + λ k s²): the maximum of log p + λ C.
    """
    v = alpha_bar * PRIOR_STD**2 + 1 - alpha_bar
    a = alpha_bar * PRIOR_STD**2 / v
    r = {"denoised": 1.0, "unet": a}[energy_gradient]
    m = PRIOR_MEANS - PRIOR_MEANS.mean()
    return PRIOR_MEANS - LAMBDA * K * r * m / (alpha_bar / v + LAMBDA * K * r * a)


@pytest.fixture
def quadratic(register):
    @register("test-quadratic-energy")
    class Quadratic(Energy):
        def __call__(self, views):
            deviation = views.denoised - views.denoised.mean(dim=1, keepdim=True)
            return -K / 2 * deviation.square().sum(dim=(1, 2, 3, 4))


@pytest.mark.parametrize("energy_gradient", ["denoised", "unet"])
@pytest.mark.parametrize("percent", [0.02, 0.3])
def test_views_reach_the_known_optimum(
    make_guidance, cameras, quadratic, monkeypatch, energy_gradient, percent
):
    guidance = make_guidance(
        energy_type="test-quadratic-energy",
        energy_weight=LAMBDA,
        energy_gradient=energy_gradient,
        weighting_strategy="uniform",
        min_step_percent=percent,
        max_step_percent=percent,
    )
    table = guidance.prior.schedule.alphas_cumprod

    def gaussian_noise_prediction(x_t, t, text_embeddings):
        a, mean = table[t].view(-1, 1, 1, 1), text_embeddings[:, :1, :1, None]
        return (1 - a).sqrt() * (x_t - a.sqrt() * mean) / (a * PRIOR_STD**2 + 1 - a)

    monkeypatch.setattr(guidance.prior, "predict_noise", gaussian_noise_prediction)
    expected = optimum(table[int(1000 * percent)], energy_gradient)

    torch.manual_seed(0)
    views = torch.zeros(8, 16, 16, 4, requires_grad=True)  # as latents, two objects
    average = torch.zeros(8)
    for step in range(200):
        loss = guidance(views, OwnMeans(), **cameras, rgb_as_latents=True)["loss_sds"]
        (grad,) = torch.autograd.grad(8 * loss, views)
        with torch.no_grad():
            views -= 0.15 * grad
        if step >= 100:  # the noise of the gradient averages out over steps and pixels
            average += views.detach().mean(dim=(1, 2, 3)) / 100
    torch.testing.assert_close(average, expected.repeat(2), atol=0.02, rtol=0)
    assert (average - PRIOR_MEANS.repeat(2)).abs().max() > 0.1  # the energy did move the views


def test_small_noise_gives_the_maximum_of_the_joint_density():
    m = PRIOR_MEANS - PRIOR_MEANS.mean()
    strength = LAMBDA * K * PRIOR_STD**2
    expected = PRIOR_MEANS.mean() + m / (1 + strength)
    for energy_gradient in ("denoised", "unet"):
        torch.testing.assert_close(optimum(torch.tensor(1 - 1e-6), energy_gradient), expected)
