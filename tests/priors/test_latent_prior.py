"""The adapter around a UNet, its schedule and its VAE."""

import pytest
import torch
import torch.nn.functional as F
from threestudio_jointdreamer.priors.latent_prior import LatentPrior
from threestudio_jointdreamer.priors.loading import load_prior

from jointdreamer.testing.random_priors import build_stable_diffusion

CPU = torch.device("cpu")


@pytest.fixture
def prior(sd_prior):
    return sd_prior


def test_sizes_come_from_the_models(prior):
    assert (prior.image_size, prior.latent_size, prior.latent_channels) == (64, 16, 4)
    assert (prior.downsampling, prior.dtype, prior.device) == (4, torch.float32, CPU)


def test_encoding_is_a_scaled_sample_of_the_posterior(prior):
    rgb = torch.rand(2, 3, 64, 64)
    torch.manual_seed(1)
    latents = prior.encode(rgb)
    torch.manual_seed(1)
    posterior = prior.vae.encode(rgb * 2 - 1).latent_dist
    expected = (posterior.mean + posterior.std * torch.randn(2, 4, 16, 16)) * 0.5
    torch.testing.assert_close(latents, expected)


def test_images_are_resized_to_what_the_model_expects(prior):
    small = torch.rand(1, 3, 32, 32)
    resized = F.interpolate(small, (64, 64), mode="bilinear", align_corners=False)
    torch.manual_seed(1)
    latents = prior.encode(small)
    torch.manual_seed(1)
    assert torch.equal(latents, prior.encode(resized))
    assert prior.encode(small, latent_size=8).shape == (1, 4, 8, 8)


def test_encoding_and_decoding_are_differentiable(prior):
    rgb = torch.rand(1, 3, 32, 32, requires_grad=True)
    prior.encode(rgb).square().sum().backward()
    assert rgb.grad.abs().sum() > 0
    latents = torch.randn(1, 4, 16, 16, requires_grad=True)
    prior.decode(latents).square().sum().backward()
    assert latents.grad.abs().sum() > 0


def test_decoding_gives_images_at_the_chosen_latent_size(prior):
    latents = torch.randn(2, 4, 16, 16)
    images = prior.decode(latents)
    assert images.shape == (2, 3, 64, 64)
    assert images.min() >= 0 and images.max() <= 1
    assert prior.decode(latents, latent_size=8).shape == (2, 3, 32, 32)


def test_decoding_undoes_the_scaling_factor(prior):
    latents = torch.randn(2, 4, 16, 16)
    factor = prior.vae.config.scaling_factor
    decoded = prior.vae.decode(latents / factor).sample
    assert factor != 1
    torch.testing.assert_close(prior.decode(latents), (decoded / 2 + 0.5).clamp(0, 1))


def test_a_velocity_model_answers_in_noise(sd_folder, prior, tmp_path):
    velocity = load_prior(build_stable_diffusion(tmp_path, prediction_type="v_prediction"), CPU)
    x_t, t = torch.randn(2, 4, 16, 16), torch.tensor([100, 900])
    text = torch.randn(2, 24, 128)
    v = prior.predict_noise(x_t, t, text)  # the same weights, read as noise
    a = prior.schedule.alphas_cumprod[t].view(2, 1, 1, 1)
    expected = a.sqrt() * v + (1 - a).sqrt() * x_t
    torch.testing.assert_close(velocity.predict_noise(x_t, t, text), expected)


def test_embeddings_of_another_text_encoder_are_refused(prior):
    with pytest.raises(ValueError, match="77 wide but the UNet attends to 128"):
        prior.predict_noise(torch.randn(1, 4, 16, 16), torch.tensor([5]), torch.randn(1, 24, 77))


def test_a_vae_of_another_model_is_refused(prior):
    prior.vae.register_to_config(latent_channels=8)
    try:
        with pytest.raises(ValueError, match="4 latent channels but the VAE makes 8"):
            LatentPrior(prior.unet, prior.schedule, prior.vae)
    finally:
        prior.vae.register_to_config(latent_channels=4)


def test_oblong_latents_are_refused(prior):
    prior.unet.register_to_config(sample_size=(16, 32))
    try:
        with pytest.raises(ValueError, match=r"sample_size=\(16, 32\) is not square"):
            LatentPrior(prior.unet, prior.schedule)
    finally:
        prior.unet.register_to_config(sample_size=16)


def test_compiling_takes_the_transformer_blocks_and_keeps_shapes_static(sd_folder, compiled):
    prior = load_prior(sd_folder, CPU, vae_from=sd_folder)
    prior.compile()
    assert len(compiled) == 4 and not any(compiled)
