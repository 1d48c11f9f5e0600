"""What the energies have in common that compare x̂0 with a model's estimate of the views."""

import pytest
import threestudio
import torch
import torch.nn.functional as F
from helpers.views import gradient, unchanged
from threestudio_jointdreamer.priors.latent_prior import LatentPrior

from jointdreamer.testing.cameras import camera_ring
from jointdreamer.testing.prompts import RandomPrompts
from jointdreamer.testing.random_image_priors import build_wonder3d, build_zero123
from jointdreamer.testing.random_priors import build_mvdream

BUILD = {"multiview": build_mvdream, "wonder3d": build_wonder3d, "zero123": build_zero123}
each_kind = pytest.mark.parametrize("kind", BUILD)


@each_kind
@pytest.mark.parametrize("noise", ["shared", "fresh"])
def test_gradient_is_the_pull_to_predicted_views_that_have_no_graph(
    make_energy, views, kind, noise
):
    energy = make_energy(kind, noise=noise)
    with unchanged(views):
        torch.manual_seed(0)
        C = energy(views)
    torch.manual_seed(0)
    predicted = energy.predict(views)
    assert not predicted.requires_grad
    torch.testing.assert_close(gradient(C, views), 2 * (predicted - views.denoised.detach()))


@each_kind
def test_residuals_are_multiplied_with_the_opacity(make_energy, views, kind):
    energy = make_energy(kind, mask_with_opacity=True)
    views.opacity[:, :, :10] = 0.0  # transparent pixels do not count
    mask = F.interpolate(views.opacity.flatten(0, 1).permute(0, 3, 1, 2), (16, 16), mode="bilinear")
    mask = mask.unflatten(0, (2, 4))
    residual = (energy.predict(views) - views.denoised).detach()
    with unchanged(views):
        C = energy(views)
    torch.testing.assert_close(C, -(mask * residual).square().sum(dim=(1, 2, 3, 4)))
    torch.testing.assert_close(gradient(C, views), 2 * mask**2 * residual)


@each_kind
def test_guidance_scale_follows_its_schedule(make_energy, views, kind):
    energy = make_energy(kind, guidance_scale=[10, 1.0, 3.0, 11])
    plain = make_energy(kind, guidance_scale=1.0).predict(views)
    energy.update_step(0, 10)
    assert torch.equal(energy.predict(views), plain)
    energy.update_step(0, 11)
    assert not torch.allclose(energy.predict(views), plain)


@pytest.mark.parametrize(
    ("kind", "plain", "guided"), [("multiview", 8, 16), ("wonder3d", 8, 16), ("zero123", 6, 12)]
)
def test_all_views_and_prompts_take_one_call_and_guidance_scale_one_half_of_it(
    make_energy, views, batch_sizes, kind, plain, guided
):
    """Zero-1-to-3 predicts only the views that it is asked for, the others all of an object's."""
    for s, size in ((1.0, plain), (0.5, guided), (3.0, guided)):
        energy = make_energy(kind, guidance_scale=s)
        sizes = batch_sizes(energy.model.unet)
        energy(views)
        assert sizes == [size]


@each_kind
def test_denoised_clamp_bounds_the_prediction(make_energy, views, kind):
    free, clamped = (make_energy(kind, denoised_clamp=c).predict(views) for c in (None, 0.5))
    made = slice(0 if kind == "multiview" else 1, None)  # x̂0 of the reference stays as it is
    assert free[:, made].abs().max() > 0.5
    torch.testing.assert_close(clamped[:, made], free[:, made].clamp(-0.5, 0.5))


@each_kind
def test_a_smaller_model_sees_renders_at_its_own_size(
    make_energy, views, tmp_path, monkeypatch, kind
):
    seen, encode = [], LatentPrior.encode

    def watched(prior, rgb, size=None):
        seen.append((tuple(rgb.shape), size, torch.is_grad_enabled()))
        return encode(prior, rgb, size)

    monkeypatch.setattr(LatentPrior, "encode", watched)
    small = BUILD[kind](tmp_path, latent_size=8)
    energy = make_energy(kind, noise="fresh", pretrained_model_name_or_path=str(small))
    assert energy.predict(views).shape == views.denoised.shape
    assert ((8, 3, 20, 20), 8, False) in seen


@each_kind
def test_compile_reaches_the_model(make_energy, views, compiled, kind):
    make_energy(kind, compile=True)(views)
    assert compiled and not any(compiled)


@pytest.mark.parametrize("kind", [*BUILD, "classifier"])
def test_the_guidance_distils_with_every_energy(models, sd_folder, kind):
    kind_of_energy = kind if kind in ("multiview", "classifier") else "translation"
    more = {"elevation_tolerance": 30.0} if kind_of_energy == "translation" else {}
    guidance = threestudio.find("jsd-guidance")(
        {
            "pretrained_model_name_or_path": str(sd_folder),
            "energy_type": f"jsd-{kind_of_energy}-energy",
            "energy": {"pretrained_model_name_or_path": str(models[kind])} | more,
        }
    )
    rgb = torch.rand(8, 32, 32, 3, requires_grad=True)
    opacity = torch.rand(8, 32, 32, 1)
    out = guidance(rgb, RandomPrompts(), **camera_ring(2, 4), opacity=opacity, guidance_eval=True)
    out["loss_sds"].backward()
    assert rgb.grad.isfinite().all() and rgb.grad.abs().sum() > 0
    assert out["energy"] < 0 and out["energy_grad_norm"] > 0
    assert ("imgs_energy" in out["eval"]) == (kind != "classifier")
