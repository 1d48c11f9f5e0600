"""The noise schedule against its definition and against diffusers."""

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from threestudio_jointdreamer.priors.schedule import NoiseSchedule, RectifiedFlow

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


@pytest.fixture
def flow():
    return RectifiedFlow(FlowMatchEulerDiscreteScheduler(shift=3.0).sigmas.flip(0))


def test_a_flows_noise_and_times_are_diffusers(flow, batch):
    (x, eps, _), scheduler = batch, FlowMatchEulerDiscreteScheduler(shift=3.0)
    t = torch.tensor([0, 500, 990])
    times = scheduler.timesteps.flip(0)[t]
    torch.testing.assert_close(flow.model_time(t), times)
    torch.testing.assert_close(flow.add_noise(x, eps, t), scheduler.scale_noise(x, times, eps))


def test_a_flows_noise_says_what_its_velocity_says(flow, batch):
    (x, eps, t), v = batch, torch.randn(3, 4, 8, 8)
    x_t, sigma = flow.add_noise(x, eps, t), flow.sigma(t, x)
    eps_hat = flow.to_epsilon(v, x_t, t)
    torch.testing.assert_close(flow.denoise(x_t, eps_hat, t), x_t - sigma * v, rtol=0, atol=1e-3)
    bracket = flow.weight("uniform", t, x) * (eps_hat - eps)
    torch.testing.assert_close(bracket, v - (eps - x), rtol=0, atol=1e-3)  # 1 / (1 − σ) is 1000
    torch.testing.assert_close(flow.to_epsilon(eps - x, x_t, t), eps)
    torch.testing.assert_close(flow.to_noise(x_t, x, t), eps, rtol=0, atol=1e-3)


def test_paths_meet_where_they_are_as_noisy(schedule, flow, batch):
    (x, eps, _), t = batch, torch.tensor([20, 500, 980])
    assert torch.equal(schedule.nearest(NoiseSchedule(schedule.alphas_cumprod), t), t)
    assert torch.equal(schedule.restate(x, t, schedule), x)
    noisy = flow.restate(schedule.add_noise(x, eps, t), t, schedule)
    expected = flow.add_noise(x, eps, flow.nearest(schedule, t))
    torch.testing.assert_close(noisy, expected, rtol=0, atol=0.02)
