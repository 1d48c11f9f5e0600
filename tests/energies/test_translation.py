"""The translation energy against a direct computation of C_I2I."""

from dataclasses import replace

import pytest
import threestudio
import torch
import torch.nn.functional as F
from helpers.translation_fixtures import KINDS, make_views
from helpers.views import gradient, unchanged
from omegaconf import OmegaConf
from threestudio_jointdreamer.energies.translation import TranslationEnergy
from threestudio_jointdreamer.priors.image_prior import Cameras

from jointdreamer.testing.cameras import camera_ring
from jointdreamer.testing.prompts import RandomPrompts
from jointdreamer.testing.random_image_priors import build_wonder3d, build_zero123


def predict_directly(energy, views, x_t, reference, s, rescale=0.0, rgb=None):
    """M_I2I of the views beside the reference, object by object: [N, V-1, ...], in their order."""
    prior, rgb = energy.image_prior, views.rgb if rgb is None else rgb
    predicted = []
    for n, r in enumerate(reference):
        others = [v for v in range(views.n_view) if v != r]
        asked = list(range(views.n_view)) if prior.joint else others
        poses = torch.stack([views.elevation[n], views.azimuth[n], views.camera_distances[n]], 1)
        seen = prior.look_at(rgb[n : n + 1, r].permute(0, 3, 1, 2))
        cameras = Cameras(poses[None, asked], poses[None, [r]])
        with torch.no_grad():
            cond, uncond = prior.predict_noise(
                x_t[n : n + 1, asked], views.t[n : n + 1], seen, cameras, guided=True
            )
        a = prior.prior.schedule.alphas_cumprod[views.t[n]]
        eps = uncond + s * (cond - uncond)
        x0, x0_plain = ((x_t[n, asked] - (1 - a).sqrt() * e[0]) / a.sqrt() for e in (eps, cond))
        x0 = rescale * x0 * x0_plain.std() / x0.std() + (1 - rescale) * x0
        predicted.append(x0[[asked.index(v) for v in others]])
    return torch.stack(predicted)


def without(x, reference):
    rows = [[v for v in range(x.shape[1]) if v != r] for r in reference]
    return torch.stack([x[n, row] for n, row in enumerate(rows)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reference", ["first", "frontal"])
def test_energy_is_minus_the_squared_distance_to_the_other_views(
    make_translation, sd_prior, kind, reference
):
    views = make_views(sd_prior)
    views = replace(views, azimuth=views.azimuth - 100)  # -100 -10 80 170 and -70 20 110 200
    energy = make_translation(kind, reference=reference, guidance_scale=3.0)
    chosen = [0, 0] if reference == "first" else [1, 1]
    target = predict_directly(energy, views, views.noisy, chosen, 3.0)
    expected = -((target - without(views.denoised, chosen)) ** 2).flatten(1).sum(1)
    torch.testing.assert_close(energy(views), expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_pulls_to_the_models_views_and_leaves_the_reference_alone(
    make_translation, level_views, kind
):
    energy = make_translation(kind)
    g = gradient(energy(level_views), level_views)
    torch.testing.assert_close(g, 2 * (energy.predict(level_views) - level_views.denoised.detach()))
    assert g[:, 0].abs().max() == 0
    assert (g[:, 1:].abs().amax(dim=(2, 3, 4)) > 0).all()


def test_the_frontal_view_is_nearest_to_azimuth_0_from_either_side(make_translation, level_views):
    energy = make_translation(reference="frontal")
    azimuth = torch.tensor([[80.0, 170.0, 260.0, 350.0], [-95.0, -5.0, 85.0, 175.0]])
    g = gradient(energy(replace(level_views, azimuth=azimuth)), level_views)
    still = g.abs().amax(dim=(2, 3, 4)) == 0
    assert still.tolist() == [[False] * 3 + [True], [False, True, False, False]]


def test_a_random_reference_is_drawn_per_object_and_step(make_translation, sd_prior):
    energy = make_translation("zero123", reference="random", guidance_scale=1.0)
    views = make_views(sd_prior, n_object=3)
    drawn = set()
    for seed in range(8):
        torch.manual_seed(seed)
        g = gradient(energy(views), views)
        still = (g.abs().amax(dim=(2, 3, 4)) == 0).long()
        assert still.sum(dim=1).tolist() == [1, 1, 1]
        drawn.add(tuple(still.argmax(dim=1).tolist()))
    assert len(drawn) > 4 and any(len(set(choice)) > 1 for choice in drawn)


@pytest.mark.parametrize(("kind", "plain", "guided"), [("wonder3d", 8, 16), ("zero123", 6, 12)])
def test_all_views_take_one_call_and_guidance_doubles_it(
    make_translation, level_views, batch_sizes, kind, plain, guided
):
    """Wonder3D predicts the views of an object together, Zero-1-to-3 only those it is asked for."""
    for s, size in ((1.0, plain), (3.0, guided)):
        energy = make_translation(kind, guidance_scale=s)
        sizes = batch_sizes(energy.model.unet)
        energy(level_views)
        assert sizes == [size]


def test_normals_take_a_call_more(make_translation, level_views, batch_sizes):
    energy = make_translation(cross_domain=True)
    sizes = batch_sizes(energy.model.unet)
    energy(level_views)
    assert sizes == [8, 32]


@pytest.mark.parametrize("kind", KINDS)
def test_recon_std_rescale_mixes_in_the_unguided_contrast(make_translation, level_views, kind):
    energy = make_translation(kind, recon_std_rescale=0.7, guidance_scale=3.0)
    predicted = energy.predict(level_views)
    axes = (1, 2, 3, 4)
    if not energy.image_prior.joint:
        expected = predict_directly(
            energy, level_views, level_views.noisy, [0, 0], 3.0, rescale=0.7
        )
        torch.testing.assert_close(predicted[:, 1:], expected, rtol=1e-3, atol=1e-3)
    plain = make_translation(kind, guidance_scale=1.0).predict(level_views)[:, 1:].std(axes)
    free = make_translation(kind, guidance_scale=3.0).predict(level_views)[:, 1:].std(axes)
    between = predicted[:, 1:].std(axes)
    assert ((between - plain).abs() < (free - plain).abs()).all()


def test_guidance_scale_follows_its_schedule(make_translation, level_views):
    energy = make_translation(guidance_scale=[10, 1.0, 3.0, 11])
    plain = make_translation(guidance_scale=1.0).predict(level_views)
    energy.update_step(0, 10)
    assert torch.equal(energy.predict(level_views), plain)
    energy.update_step(0, 11)
    assert not torch.allclose(energy.predict(level_views), plain)


def test_denoised_clamp_bounds_the_prediction(make_translation, level_views):
    free, clamped = (
        make_translation(denoised_clamp=c).predict(level_views)[:, 1:] for c in (None, 0.5)
    )
    assert free.abs().max() > 0.5
    torch.testing.assert_close(clamped, free.clamp(-0.5, 0.5))


@pytest.mark.parametrize("kind", KINDS)
def test_fresh_noise_is_added_to_the_renders_latents(make_translation, level_views, kind):
    energy = make_translation(kind, noise="fresh", guidance_scale=3.0)
    torch.manual_seed(3)
    predicted = energy.predict(level_views)
    torch.manual_seed(3)
    rgb = F.interpolate(
        level_views.rgb.flatten(0, 1).permute(0, 3, 1, 2), (64, 64), mode="bilinear"
    )
    with torch.no_grad():
        x = energy.model.vae.encode(rgb * 2 - 1).latent_dist.sample() * 0.5
    x_t = energy.model.schedule.add_noise(
        x, torch.randn_like(x), level_views.t.repeat_interleave(4)
    )
    expected = predict_directly(energy, level_views, x_t.unflatten(0, (2, 4)), [0, 0], 3.0)
    torch.testing.assert_close(predicted[:, 1:], expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("build", [build_wonder3d, build_zero123])
def test_a_smaller_model_sees_renders_at_its_own_size(level_views, tmp_path, build):
    folder = build(tmp_path / "small", latent_size=8)
    energy = TranslationEnergy({"pretrained_model_name_or_path": str(folder)})
    assert energy.predict(level_views).shape == level_views.denoised.shape


def test_the_reference_is_laid_on_white_by_its_opacity(make_translation, level_views, monkeypatch):
    energy = make_translation("zero123", white_background=True)
    seen, look_at = [], energy.image_prior.look_at
    monkeypatch.setattr(energy.image_prior, "look_at", lambda rgb: seen.append(rgb) or look_at(rgb))
    energy(level_views)
    rgb, opacity = (x[:, 0].permute(0, 3, 1, 2) for x in (level_views.rgb, level_views.opacity))
    torch.testing.assert_close(seen[0], rgb * opacity + (1 - opacity))


def test_transparent_pixels_do_not_count(make_translation, sd_prior):
    opacity = torch.zeros(2, 4, 16, 16, 1)
    opacity[:, :, 4:8, 4:8] = 1.0
    views = make_views(sd_prior, opacity=opacity)
    g = gradient(make_translation(mask_with_opacity=True)(views), views)
    assert g[:, 1:, :, 4:8, 4:8].abs().min() > 0
    g[..., 4:8, 4:8] = 0
    assert g.abs().max() == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noise", ["shared", "fresh"])
def test_no_tensor_of_the_caller_is_changed(make_translation, level_views, noise, kind):
    energy = make_translation(kind, noise=noise, mask_with_opacity=True, white_background=True)
    with unchanged(level_views):
        energy(level_views)


@pytest.mark.parametrize("kind", KINDS)
def test_no_graph_but_the_residuals_is_built(make_translation, level_views, kind):
    energy = make_translation(kind, noise="fresh")
    assert not energy.predict(level_views).requires_grad
    assert energy(level_views).requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_the_guidance_distils_with_it(image_priors, sd_folder, kind):
    guidance = threestudio.find("jsd-guidance")(
        OmegaConf.create(
            {
                "pretrained_model_name_or_path": str(sd_folder),
                "energy_type": "jsd-translation-energy",
                "energy": {
                    "pretrained_model_name_or_path": str(image_priors[kind]),
                    "elevation_tolerance": 30.0,
                },
            }
        )
    )
    rgb = torch.rand(8, 32, 32, 3, requires_grad=True)
    opacity = torch.rand(8, 32, 32, 1)
    out = guidance(rgb, RandomPrompts(), **camera_ring(2, 4), opacity=opacity, guidance_eval=True)
    out["loss_sds"].backward()
    assert rgb.grad.isfinite().all() and out["energy_grad_norm"] > 0
    assert out["eval"]["imgs_energy"].shape[0] == 4


def test_with_strength_the_views_are_sampled_from_noise_of_their_own(
    make_translation, level_views, monkeypatch
):
    """η = 0 DDIM in three steps of equal length, written out."""
    energy = make_translation(strength=0.6, num_inference_steps=3)
    schedule, seen = energy.model.schedule, []
    predict_noise = energy.image_prior.predict_noise

    def watched(x_t, t, *args):
        eps = predict_noise(x_t, t, *args)
        seen.append((x_t, t, eps[1] + 3.0 * (eps[0] - eps[1])))
        return eps

    monkeypatch.setattr(energy.image_prior, "predict_noise", watched)
    torch.manual_seed(7)
    predicted = energy.predict(level_views)
    torch.manual_seed(7)
    start = torch.full_like(level_views.t, 599)
    eps = torch.randn_like(level_views.latents)
    torch.testing.assert_close(seen[0][0], schedule.add_noise(level_views.latents, eps, start))
    assert [call[1].tolist() for call in seen] == [[599] * 2, [399] * 2, [199] * 2]
    for (x_t, t, eps_hat), (after, t_after, _) in zip(seen, seen[1:], strict=False):
        x0 = schedule.denoise(x_t, eps_hat, t)
        torch.testing.assert_close(after, schedule.add_noise(x0, eps_hat, t_after))
    x_t, t, eps_hat = seen[-1]
    torch.testing.assert_close(predicted[:, 1:], schedule.denoise(x_t, eps_hat, t)[:, 1:])


@pytest.mark.parametrize("kind", KINDS)
def test_with_strength_the_guidance_s_own_noise_does_not_matter(
    make_translation, level_views, kind
):
    other = replace(level_views, noisy=torch.randn_like(level_views.noisy), t=level_views.t + 100)
    for strength, same in ((0.5, True), (None, False)):
        energy = make_translation(kind, strength=strength)
        pair = []
        for views in (level_views, other):
            torch.manual_seed(3)
            pair.append(energy.predict(views)[:, 1:])
        assert torch.equal(*pair) == same


def test_strength_follows_its_schedule(make_translation, level_views):
    energy = make_translation(strength=[10, 0.2, 0.9, 11])
    constant = make_translation(strength=0.9)
    energy.update_step(0, 11)
    pair = []
    for one in (energy, constant):
        torch.manual_seed(3)
        pair.append(one.predict(level_views))
    assert torch.equal(*pair)


@pytest.mark.parametrize("kind", KINDS)
def test_compile_reaches_the_model(make_translation, level_views, compiled, kind):
    make_translation(kind, compile=True)(level_views)
    assert compiled == [False, False]  # UNet and the VAE's encoder
