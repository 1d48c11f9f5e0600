"""The translation energy against a direct computation of C_I2I."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from threestudio_jointdreamer.priors.image_prior import Cameras

each_kind = pytest.mark.parametrize("kind", ["wonder3d", "zero123"])


def predict_directly(energy, views, x_t, reference, s, rescale=0.0):
    """M_I2I of the views beside the reference, object by object: [N, V-1, ...], in their order."""
    prior = energy.image_prior
    predicted = []
    for n, r in enumerate(reference):
        others = [v for v in range(views.n_view) if v != r]
        asked = list(range(views.n_view)) if prior.joint else others
        poses = torch.stack([views.elevation[n], views.azimuth[n], views.camera_distances[n]], 1)
        seen = prior.look_at(views.rgb[n : n + 1, r].permute(0, 3, 1, 2))
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


def sampled(energy, views):
    """The views beside the reference; the same random numbers in each call."""
    torch.manual_seed(3)
    return energy.predict(views)[:, 1:]


def without(x, reference):
    rows = [[v for v in range(x.shape[1]) if v != r] for r in reference]
    return torch.stack([x[n, row] for n, row in enumerate(rows)])


@each_kind
@pytest.mark.parametrize(
    ("reference", "chosen", "s", "rescale"),
    [("first", [0, 0], 3.0, 0.0), ("frontal", [3, 1], 0.5, 0.7)],
)
def test_energy_is_minus_the_squared_distance_to_the_other_views(
    make_energy, views, kind, reference, chosen, s, rescale
):
    azimuth = torch.tensor([[80.0, 170.0, 260.0, 350.0], [-95.0, -5.0, 85.0, 175.0]])
    views = replace(views, azimuth=azimuth)
    energy = make_energy(kind, reference=reference, guidance_scale=s, recon_std_rescale=rescale)
    target = predict_directly(energy, views, views.noisy, chosen, s, rescale)
    expected = -((target - without(views.denoised, chosen)) ** 2).flatten(1).sum(1)
    torch.testing.assert_close(energy(views), expected, rtol=1e-4, atol=1e-2)


def test_normals_take_a_call_more(make_energy, views, batch_sizes):
    energy = make_energy("wonder3d", cross_domain=True)
    sizes = batch_sizes(energy.model.unet)
    energy(views)
    assert sizes == [8, 32]


@each_kind
def test_fresh_noise_is_added_to_the_renders_latents(make_energy, views, kind):
    energy = make_energy(kind, noise="fresh", guidance_scale=3.0)
    torch.manual_seed(3)
    predicted = energy.predict(views)
    torch.manual_seed(3)
    rgb = F.interpolate(views.rgb.flatten(0, 1).permute(0, 3, 1, 2), (64, 64), mode="bilinear")
    with torch.no_grad():
        x = energy.model.vae.encode(rgb * 2 - 1).latent_dist.sample().contiguous() * 0.5
    x_t = energy.model.schedule.add_noise(x, torch.randn_like(x), views.t.repeat_interleave(4))
    expected = predict_directly(energy, views, x_t.unflatten(0, (2, 4)), [0, 0], 3.0)
    torch.testing.assert_close(predicted[:, 1:], expected, rtol=1e-3, atol=1e-2)


def test_the_reference_is_laid_on_white_by_its_opacity(make_energy, views, monkeypatch):
    energy = make_energy("zero123", white_background=True)
    seen, look_at = [], energy.image_prior.look_at
    monkeypatch.setattr(energy.image_prior, "look_at", lambda rgb: seen.append(rgb) or look_at(rgb))
    energy(views)
    rgb, opacity = (x[:, 0].permute(0, 3, 1, 2) for x in (views.rgb, views.opacity))
    torch.testing.assert_close(seen[0], rgb * opacity + (1 - opacity))


def test_with_strength_the_views_are_sampled_from_noise_of_their_own(
    make_energy, views, monkeypatch
):
    """η = 0 DDIM in three steps of equal length, written out."""
    energy = make_energy("wonder3d", strength=0.6, num_inference_steps=3)
    schedule, seen = energy.model.schedule, []
    predict_noise = energy.image_prior.predict_noise

    def watched(x_t, t, *args):
        eps = predict_noise(x_t, t, *args)
        seen.append((x_t, t, eps[1] + 3.0 * (eps[0] - eps[1])))
        return eps

    monkeypatch.setattr(energy.image_prior, "predict_noise", watched)
    torch.manual_seed(7)
    predicted = energy.predict(views)
    torch.manual_seed(7)
    start = torch.full_like(views.t, 599)
    eps = torch.randn_like(views.latents)
    torch.testing.assert_close(seen[0][0], schedule.add_noise(views.latents, eps, start))
    assert [call[1].tolist() for call in seen] == [[599] * 2, [399] * 2, [199] * 2]
    for (x_t, t, eps_hat), (after, t_after, _) in zip(seen, seen[1:], strict=False):
        x0 = schedule.denoise(x_t, eps_hat, t)
        torch.testing.assert_close(after, schedule.add_noise(x0, eps_hat, t_after))
    x_t, t, eps_hat = seen[-1]
    torch.testing.assert_close(predicted[:, 1:], schedule.denoise(x_t, eps_hat, t)[:, 1:])


@each_kind
def test_with_strength_the_guidances_own_noise_does_not_matter(make_energy, views, kind):
    other = replace(views, noisy=torch.randn_like(views.noisy), t=views.t + 100)
    for strength, same in ((0.5, True), (None, False)):
        energy = make_energy(kind, strength=strength)
        assert torch.equal(sampled(energy, views), sampled(energy, other)) == same


def test_strength_follows_its_schedule(make_energy, views):
    energy, constant = (make_energy("wonder3d", strength=s) for s in ([10, 0.2, 0.9, 11], 0.9))
    energy.update_step(0, 11)
    assert torch.equal(sampled(energy, views), sampled(constant, views))
