"""The multi-view energy against a direct computation of C_MVS."""

import copy
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from helpers.views import gradient, random_views
from safetensors.torch import save_file
from threestudio_jointdreamer.priors.loading import load_prior
from threestudio_jointdreamer.priors.lora import FILE
from threestudio_jointdreamer.priors.multiview import camera_condition, use_cross_view_attention
from threestudio_jointdreamer.priors.schedule import RectifiedFlow

from jointdreamer.testing.random_priors import build_mvdream

CPU = torch.device("cpu")


@pytest.fixture
def make(make_energy):
    return partial(make_energy, "multiview")


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


@pytest.mark.parametrize(("s", "rescale"), [(0.5, 0.0), (7.5, 0.0), (50.0, 0.5), (50.0, 1.0)])
def test_energy_is_minus_the_squared_distance_to_the_models_views(
    make, views, mv_folder, s, rescale
):
    energy = make(guidance_scale=s, recon_std_rescale=rescale)
    target, _ = denoise_directly(mv_folder, views, views.noisy, s, rescale)
    expected = -((target - views.denoised) ** 2).flatten(1).sum(1)
    assert (energy.predict(views) - target).norm() < 1e-4 * target.norm()  # s amplifies rounding
    torch.testing.assert_close(energy(views), expected, rtol=1e-4, atol=0)


def test_masking_the_noisy_latents_is_the_authors_estimate(make, views):
    """x̂0 = (m x_t − σ ε)/√ᾱ, whose gradient in x_t is m/√ᾱ times that in x̂0."""
    energy = make(mask_with_opacity="noisy")
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


def test_with_view_dependent_prompting_it_sees_the_2d_priors_prompts(make, views):
    plain = make().predict(views)
    energy = make(view_dependent_prompting=True)
    assert not torch.allclose(energy.predict(views), plain)
    of_views = {
        f"{name}_of_views": getattr(views, name)[:, None].expand(-1, 4, -1, -1)
        for name in ("text_embeddings", "uncond_text_embeddings")
    }
    torch.testing.assert_close(energy.predict(replace(views, **of_views)), plain)


def test_fresh_noise_is_added_to_the_clean_latents(make, views, mv_folder):
    energy = make(noise="fresh", guidance_scale=7.5)
    torch.manual_seed(3)
    prediction = energy.predict(views)
    torch.manual_seed(3)
    eps = torch.randn(8, 4, 16, 16).unflatten(0, (2, 4))
    x_t = views.prior.schedule.add_noise(views.latents, eps, views.t)
    expected, _ = denoise_directly(mv_folder, views, x_t, 7.5, 0.5)
    torch.testing.assert_close(prediction, expected, rtol=1e-4, atol=1e-4)


def test_a_vae_of_its_own_is_used_for_fresh_noise(make, views, tmp_path, sd_folder):
    def refuse(*args):
        raise AssertionError("the 2D prior's VAE was used")

    known = {name: getattr(views.prior, name) for name in ("schedule", "latent_space")}
    views = replace(views, prior=SimpleNamespace(**known, encode=refuse))
    own = str(build_mvdream(tmp_path, latent_size=8, with_vae=True))
    assert make(noise="fresh", pretrained_model_name_or_path=own).model.vae is not None
    named = make(noise="fresh", vae_name_or_path=str(sd_folder))
    assert named.predict(views).shape == views.denoised.shape
    assert make(noise="shared", vae_name_or_path=str(sd_folder)).model.vae is None


def test_fresh_noise_of_rendered_latents_is_added_to_what_they_decode_to(make, sd_prior, tmp_path):
    small = str(build_mvdream(tmp_path, latent_size=8))
    energy = make(noise="fresh", pretrained_model_name_or_path=small)
    latents = random_views(sd_prior, rgb=None)
    with torch.no_grad():
        pictures = sd_prior.decode(latents.latents.flatten(0, 1)).permute(0, 2, 3, 1)
    renders = replace(latents, rgb=pictures.unflatten(0, latents.latents.shape[:2]))
    results = []
    for views in (latents, renders):
        torch.manual_seed(0)
        results.append(energy(views))
    assert results[0].requires_grad and torch.equal(*results)


def test_any_number_of_views_is_taken_as_it_comes(make, sd_prior, mv_folder):
    energy = make(guidance_scale=1.0)
    for n_view in (4, 2, 3):
        views = random_views(sd_prior, n_view=n_view)
        _, plain = denoise_directly(mv_folder, views, views.noisy, 1.0, 0.0)
        torch.testing.assert_close(energy.predict(views), plain)


def flow(views):
    """The views of a prior whose path is straight, at an irregular t of which SD's is as noisy."""
    sigmas = torch.linspace(0.001, 1, 400)
    path = RectifiedFlow(sigmas)
    alpha_bar = views.prior.schedule.alphas_cumprod[views.t]
    t = sigmas - ((1 - alpha_bar).sqrt() / ((1 - alpha_bar).sqrt() + alpha_bar.sqrt()))[:, None]
    t = t.abs().argmin(dim=1)
    noisy = path.add_noise(views.latents, views.noise, t)
    return replace(views, t=t, noisy=noisy, prior=copy_of(views.prior, schedule=path))


@pytest.mark.parametrize("noise", ["shared", "fresh"])
def test_a_prior_of_another_path_is_met_where_it_is_as_noisy(make, views, noise):
    energy = make(noise=noise)
    predictions = []
    for seen in (views, flow(views)):
        torch.manual_seed(0)
        predictions.append(energy.predict(seen))
    a, b = predictions
    assert (a - b).norm() < 0.02 * a.norm()  # t is an integer


def test_latents_of_another_kind_are_compared_as_pictures(make, views, tmp_path):
    other = str(build_mvdream(tmp_path, latent_size=8, with_vae=True))
    energy = make(noise="fresh", pretrained_model_name_or_path=other, guidance_scale=1.0)
    strange = replace(views, prior=copy_of(views.prior, latent_space="another"))
    torch.manual_seed(0)
    C = energy(strange)
    torch.manual_seed(0)
    wanted = energy.predict(replace(views, denoised=torch.zeros(2, 4, 4, 8, 8)))
    pictures = views.prior.decode(views.denoised.flatten(0, 1), 8)
    posterior = energy.model.vae.encode(pictures * 2 - 1).latent_dist
    own = (posterior.mean * energy.model.vae.config.scaling_factor).unflatten(0, (2, 4))
    expected = -(own - wanted).square().sum(dim=(1, 2, 3, 4))
    torch.testing.assert_close(C, expected)
    torch.testing.assert_close(gradient(C, views), gradient(expected, views))
    assert energy.draw(strange).shape == (2, 4, 32, 32, 3)
    with pytest.raises(ValueError, match="text_encoder_name_or_path='x' needs system.prompt_proc"):
        strange.texts(encoder="x")


def copy_of(prior, **changes):
    other = copy.copy(prior)
    for name, value in changes.items():
        setattr(other, name, value)
    return other


def test_a_lora_and_another_size_of_latents(make, views, mv_folder, tmp_path):
    plain = make()
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    weight = plain.model.unet.get_submodule(layer).weight.clone()
    a, b = torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2)
    names = f"unet.{layer}.lora_A.weight", f"unet.{layer}.lora_B.weight"
    save_file(dict(zip(names, (a, b), strict=True)), tmp_path / FILE)
    energy = make(lora_name_or_path=str(tmp_path), latent_size=8)
    found = energy.model.unet.get_submodule(layer).weight
    torch.testing.assert_close(found, weight + b @ a)
    with pytest.raises(ValueError, match=r"this model's are \(4, 8, 8\)"):
        energy(views)
    with pytest.raises(FileNotFoundError, match="energy.lora_name_or_path"):
        make(lora_name_or_path=str(tmp_path / "none"))
