"""The multi-view energy against a direct computation of C_MVS."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from helpers.views import gradient, random_views, unchanged
from threestudio_jointdreamer.priors.loading import load_prior
from threestudio_jointdreamer.priors.multiview import camera_condition, use_cross_view_attention
from threestudio_jointdreamer.priors.schedule import NoiseSchedule

from jointdreamer.testing.random_priors import build_mvdream

CPU = torch.device("cpu")


@pytest.fixture
def views(sd_prior):
    return random_views(sd_prior)


def denoise_directly(folder, views, x_t, guidance_scale, rescale):
    """M_MVS, object by object and prompt by prompt, and the unguided M_MVS."""
    unet = use_cross_view_attention(load_prior(folder, CPU).unet, views.n_view)
    guided, plain = [], []
    for n in range(views.n_object):
        eps = {}
        for name in ("text_embeddings", "uncond_text_embeddings"):
            prompt = getattr(views, name)[n : n + 1].expand(views.n_view, -1, -1)
            camera = camera_condition(views.c2w[n])
            with torch.no_grad():
                eps[name] = unet(x_t[n], views.t[n], prompt, class_labels=camera).sample
        text, uncond = eps["text_embeddings"], eps["uncond_text_embeddings"]
        a = views.prior.schedule.alphas_cumprod[views.t[n]]
        mixed = uncond + guidance_scale * (text - uncond)
        x0, x0_plain = ((x_t[n] - (1 - a).sqrt() * e) / a.sqrt() for e in (mixed, text))
        guided.append(rescale * x0 * x0_plain.std() / x0.std() + (1 - rescale) * x0)
        plain.append(x0_plain)
    return torch.stack(guided), torch.stack(plain)


def test_energy_is_minus_the_squared_distance_to_the_models_views(make_multiview, views, mv_folder):
    energy = make_multiview(guidance_scale=7.5, recon_std_rescale=0.0)
    target, _ = denoise_directly(mv_folder, views, views.noisy, 7.5, 0.0)
    expected = -((target - views.denoised) ** 2).flatten(1).sum(1)
    torch.testing.assert_close(energy(views), expected)


def test_gradient_is_the_pull_to_the_models_views(make_multiview, views):
    energy = make_multiview()
    g = gradient(energy(views), views)
    torch.testing.assert_close(g, 2 * (energy.predict(views) - views.denoised.detach()))


@pytest.mark.parametrize("rescale", [0.5, 1.0])
def test_recon_std_rescale_mixes_in_the_unguided_contrast(
    make_multiview, views, mv_folder, rescale
):
    energy = make_multiview(guidance_scale=50.0, recon_std_rescale=rescale)
    expected, plain = denoise_directly(mv_folder, views, views.noisy, 50.0, rescale)
    prediction = energy.predict(views)
    assert (prediction - expected).norm() < 1e-4 * expected.norm()  # s = 50 amplifies rounding
    if rescale == 1.0:
        axes = (1, 2, 3, 4)
        torch.testing.assert_close(prediction.std(axes), plain.std(axes))


def test_both_prompts_take_one_call_and_guidance_scale_one_a_conditional_one(
    make_multiview, views, mv_folder, batch_sizes
):
    energy = make_multiview(guidance_scale=7.5)
    sizes = batch_sizes(energy.model.unet)
    energy(views)
    assert sizes == [16]
    energy = make_multiview(guidance_scale=1.0)
    sizes = batch_sizes(energy.model.unet)
    _, plain = denoise_directly(mv_folder, views, views.noisy, 1.0, 0.0)
    torch.testing.assert_close(energy.predict(views), plain)
    assert sizes == [8]


def test_guidance_scale_follows_its_schedule(make_multiview, views):
    energy = make_multiview(guidance_scale=[10, 1.0, 7.5, 11])
    plain = make_multiview(guidance_scale=1.0).predict(views)
    energy.update_step(0, 10)
    assert torch.equal(energy.predict(views), plain)
    energy.update_step(0, 11)
    assert not torch.allclose(energy.predict(views), plain)


def test_transparent_pixels_do_not_count(make_multiview, sd_prior):
    opacity = torch.zeros(2, 4, 16, 16, 1)
    opacity[:, :, 4:8, 4:8] = 1.0
    views = random_views(sd_prior, opacity=opacity)
    energy = make_multiview(mask_with_opacity=True)
    g = gradient(energy(views), views)
    inside = g[..., 4:8, 4:8].clone()
    expected = 2 * (energy.predict(views) - views.denoised.detach())[..., 4:8, 4:8]
    torch.testing.assert_close(inside, expected)
    g[..., 4:8, 4:8] = 0
    assert g.abs().max() == 0


def test_opacity_is_resized_to_the_latents(make_multiview, views):
    energy = make_multiview(mask_with_opacity=True)
    opacity = views.opacity.flatten(0, 1).permute(0, 3, 1, 2)
    mask = F.interpolate(opacity, (16, 16), mode="bilinear").unflatten(0, (2, 4))
    residual = mask * (energy.predict(views) - views.denoised)
    torch.testing.assert_close(energy(views), -residual.square().flatten(1).sum(1))


def test_masking_the_noisy_latents_is_the_authors_estimate(make_multiview, views):
    """x̂0 = (m x_t − σ ε)/√ᾱ, whose gradient in x_t is m/√ᾱ times that in x̂0."""
    energy = make_multiview(mask_with_opacity="noisy")
    a = views.prior.schedule.alpha_bar(views.t, views.latents)
    x_t = views.noisy.clone().requires_grad_()
    eps = torch.randn_like(x_t)
    views = replace(views, noisy=x_t, denoised=(x_t - (1 - a).sqrt() * eps) / a.sqrt())
    (g,) = torch.autograd.grad(energy(views).sum(), x_t)
    opacity = views.opacity.flatten(0, 1).permute(0, 3, 1, 2)
    m = F.interpolate(opacity, (16, 16), mode="bilinear").unflatten(0, (2, 4))
    residual = energy.predict(views) - (m * x_t - (1 - a).sqrt() * eps) / a.sqrt()
    torch.testing.assert_close(energy(views), -residual.square().sum(dim=(1, 2, 3, 4)))
    torch.testing.assert_close(g, 2 * m / a.sqrt() * residual, rtol=1e-4, atol=1e-3)


def test_with_view_dependent_prompting_it_sees_the_2d_priors_prompts(make_multiview, views):
    plain = make_multiview().predict(views)
    energy = make_multiview(view_dependent_prompting=True)
    assert not torch.allclose(energy.predict(views), plain)
    of_views = {
        f"{name}_of_views": getattr(views, name)[:, None].expand(-1, 4, -1, -1)
        for name in ("text_embeddings", "uncond_text_embeddings")
    }
    torch.testing.assert_close(energy.predict(replace(views, **of_views)), plain)


def test_denoised_clamp_bounds_the_prediction(make_multiview, views):
    free, clamped = (make_multiview(denoised_clamp=c).predict(views) for c in (None, 0.5))
    assert free.abs().max() > 0.5
    torch.testing.assert_close(clamped, free.clamp(-0.5, 0.5))


@pytest.mark.parametrize("noise", ["shared", "fresh"])
def test_no_tensor_of_the_caller_is_changed(make_multiview, views, noise):
    with unchanged(views):
        make_multiview(noise=noise, mask_with_opacity=True, denoised_clamp=1.0)(views)


def test_no_graph_but_the_residuals_is_built(make_multiview, views):
    energy = make_multiview(noise="fresh")
    assert not energy.predict(views).requires_grad
    assert energy(views).requires_grad


def test_fresh_noise_is_added_to_the_clean_latents(make_multiview, views, mv_folder):
    energy = make_multiview(noise="fresh", guidance_scale=7.5)
    torch.manual_seed(3)
    prediction = energy.predict(views)
    torch.manual_seed(3)
    eps = torch.randn(8, 4, 16, 16).unflatten(0, (2, 4))
    x_t = views.prior.schedule.add_noise(views.latents, eps, views.t)
    expected, _ = denoise_directly(mv_folder, views, x_t, 7.5, 0.5)
    torch.testing.assert_close(prediction, expected, rtol=1e-4, atol=1e-4)


def test_a_smaller_model_sees_renders_at_its_own_size(make_multiview, views, tmp_path):
    energy = make_multiview(
        noise="fresh", pretrained_model_name_or_path=str(build_mvdream(tmp_path, latent_size=8))
    )
    sizes = []

    def encode(rgb, latent_size):
        assert not torch.is_grad_enabled()
        sizes.append((tuple(rgb.shape), latent_size))
        return torch.zeros(8, 4, latent_size, latent_size)

    prior = SimpleNamespace(schedule=views.prior.schedule, encode=encode)
    prediction = energy.predict(replace(views, prior=prior))
    assert sizes == [((8, 3, 20, 20), 8)]
    assert prediction.shape == views.denoised.shape


def test_a_vae_of_its_own_is_used_for_fresh_noise(make_multiview, views, tmp_path, sd_folder):
    def refuse(*args):
        raise AssertionError("the 2D prior's VAE was used")

    views = replace(views, prior=SimpleNamespace(schedule=views.prior.schedule, encode=refuse))
    own = build_mvdream(tmp_path, latent_size=8, with_vae=True)
    assert (
        make_multiview(noise="fresh", pretrained_model_name_or_path=str(own)).model.vae is not None
    )
    named = make_multiview(noise="fresh", vae_name_or_path=str(sd_folder))
    assert named.predict(views).shape == views.denoised.shape
    assert make_multiview(noise="shared", vae_name_or_path=str(sd_folder)).model.vae is None


def test_fresh_noise_of_rendered_latents_is_added_to_what_they_decode_to(
    make_multiview, sd_prior, tmp_path
):
    small = str(build_mvdream(tmp_path, latent_size=8))
    energy = make_multiview(noise="fresh", pretrained_model_name_or_path=small)
    latents = random_views(sd_prior, rgb=None)
    with torch.no_grad():
        pictures = sd_prior.decode(latents.latents.flatten(0, 1)).permute(0, 2, 3, 1)
    renders = replace(latents, rgb=pictures.unflatten(0, latents.latents.shape[:2]))
    results = []
    for views in (latents, renders):
        torch.manual_seed(0)
        results.append(energy(views))
    assert results[0].requires_grad and torch.equal(*results)


def test_shared_noise_of_another_size_is_refused(make_multiview, views, tmp_path):
    small = str(build_mvdream(tmp_path, latent_size=8))
    with pytest.raises(ValueError, match=r"\(4, 8, 8\).*\(4, 16, 16\): set energy.noise=fresh"):
        make_multiview(pretrained_model_name_or_path=small)(views)


def test_shared_noise_of_another_schedule_is_refused(make_multiview, views):
    other = NoiseSchedule(torch.linspace(0.999, 0.001, 1000))
    with pytest.raises(ValueError, match="alphas_cumprod differ.*set energy.noise=fresh"):
        make_multiview()(replace(views, prior=SimpleNamespace(schedule=other)))


def test_any_number_of_views_is_taken_as_it_comes(make_multiview, sd_prior, mv_folder):
    energy = make_multiview(guidance_scale=1.0)
    for n_view in (4, 2, 3):
        views = random_views(sd_prior, n_view=n_view)
        _, plain = denoise_directly(mv_folder, views, views.noisy, 1.0, 0.0)
        torch.testing.assert_close(energy.predict(views), plain)


def test_compile_reaches_the_model(make_multiview, compiled):
    assert isinstance(make_multiview(compile=True).model.unet.config.sample_size, int)
    assert compiled == [False]
