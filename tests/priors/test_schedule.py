"""The noise schedule against its definition and against diffusers."""

import pytest
import torch
from diffusers import DDIMScheduler
from threestudio_jointdreamer.priors.schedule import NoiseSchedule

STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0, 500, 999])


@pytest.fixture
def schedule():
    return NoiseSchedule(DDIMScheduler(**STABLE_DIFFUSION).alphas_cumprod)


def test_noise_is_added_as_diffusers_adds_it(schedule, batch):
    x, eps, t = batch
    expected = DDIMScheduler(**STABLE_DIFFUSION).add_noise(x, eps, t)
    assert torch.equal(schedule.add_noise(x, eps, t), expected)


def test_denoising_with_the_true_noise_gives_the_clean_latents(schedule, batch):
    x, eps, t = batch
    torch.testing.assert_close(schedule.denoise(schedule.add_noise(x, eps, t), eps, t), x)


def test_sigma_and_signal_make_unit_variance(schedule):
    t = torch.arange(1000)
    like = torch.empty(1000, 1)
    total = schedule.alpha_bar(t, like) + schedule.sigma(t, like) ** 2
    torch.testing.assert_close(total, torch.ones(1000, 1))


def test_velocity_is_converted_to_noise(schedule, batch):
    x, eps, t = batch
    velocity = DDIMScheduler(**STABLE_DIFFUSION).get_velocity(x, eps, t)
    v_schedule = NoiseSchedule(schedule.alphas_cumprod, "v_prediction")
    x_t = v_schedule.add_noise(x, eps, t)
    torch.testing.assert_close(v_schedule.to_epsilon(velocity, x_t, t), eps, atol=1e-5, rtol=1e-5)


def test_an_unknown_prediction_type_is_refused(schedule):
    with pytest.raises(ValueError, match="prediction_type='flow'.*epsilon, v_prediction"):
        NoiseSchedule(schedule.alphas_cumprod, "flow")
