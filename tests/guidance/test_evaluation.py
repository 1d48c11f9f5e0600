"""The pictures of guidance_eval."""

import pytest
import torch
from threestudio_jointdreamer.guidance.pictures import guidance_pictures

from jointdreamer.testing.prompts import RandomPrompts

PICTURES = ("imgs_noisy", "imgs_1step", "imgs_1orig", "imgs_final")


@pytest.mark.parametrize("perp_neg", [False, True])
@pytest.mark.parametrize(("max_items_eval", "count"), [(3, 3), (20, 8), (-1, 8)])
def test_pictures_are_images_of_the_first_views(
    make_guidance, cameras, rgb, max_items_eval, count, perp_neg
):
    guidance = make_guidance(
        max_items_eval=max_items_eval, min_step_percent=0.05, max_step_percent=0.1
    )
    out = guidance(rgb, RandomPrompts(perp_neg=perp_neg), **cameras, guidance_eval=True)["eval"]
    assert out["bs"] == len(out["noise_levels"]) == len(out["texts"]) == count
    for name in PICTURES:
        assert out[name].shape == (count, 64, 64, 3)
        assert out[name].min() >= 0 and out[name].max() <= 1
        assert not out[name].requires_grad
    assert all(0.05 - 1e-6 <= level <= 0.1 + 1e-6 for level in out["noise_levels"])
    assert "imgs_energy" not in out


def test_texts_say_noise_level_and_camera(make_guidance, prompts, cameras, rgb):
    guidance = make_guidance(min_step_percent=0.05, max_step_percent=0.05)
    texts = guidance(rgb, prompts, **cameras, guidance_eval=True)["eval"]["texts"]
    assert texts[1] == "n0.05\ne10.0\na90.0\nc2.00"


def test_the_energys_prediction_is_shown_while_it_counts(
    make_guidance, prompts, cameras, rgb, mv_folder
):
    guidance = make_guidance(
        energy_type="jsd-multiview-energy",
        energy={"pretrained_model_name_or_path": str(mv_folder), "noise": "shared"},
        energy_weight=[5, 0.0, 1.0, 6],
        min_step_percent=0.05,
        max_step_percent=0.1,
    )
    seen, predict = [], guidance.energy.predict
    guidance.energy.predict = lambda views: seen.append(predict(views)) or seen[-1]
    assert "imgs_energy" not in guidance(rgb, prompts, **cameras, guidance_eval=True)["eval"]
    guidance.do_update_step(0, 6)
    out = guidance(rgb, prompts, **cameras, guidance_eval=True)["eval"]
    expected = guidance.prior.decode(seen[-1].flatten(0, 1)[:4]).permute(0, 2, 3, 1)
    assert torch.equal(out["imgs_energy"], expected)


def test_looking_changes_neither_the_loss_nor_later_random_numbers(
    make_guidance, prompts, cameras, rgb, mv_folder
):
    guidance = make_guidance(
        energy_type="jsd-multiview-energy",
        energy={"pretrained_model_name_or_path": str(mv_folder), "noise": "fresh"},
        max_step_percent=0.1,
    )
    outcomes = []
    for look in (False, True):
        torch.manual_seed(0)
        out = guidance(rgb, prompts, **cameras, guidance_eval=look)
        outcomes.append((out["loss_sds"], torch.rand(3)))
    assert torch.equal(outcomes[0][0], outcomes[1][0])
    assert torch.equal(outcomes[0][1], outcomes[1][1])


def test_sampling_ends_at_the_priors_mean_for_a_point_prior(make_guidance):
    """For a prior that is one point μ, ε_φ = (x_t − √ᾱ μ)/σ, every x̂0 is μ and so is the end."""
    prior = make_guidance().prior
    mu = 0.3 * torch.randn(2, 4, 16, 16)
    asked = []

    def predict(x_t, t):
        asked.append(t)
        a = prior.schedule.alpha_bar(t, x_t)
        return (x_t - a.sqrt() * mu) / (1 - a).sqrt()

    t = torch.tensor([900, 120])
    x_t = prior.schedule.add_noise(mu, torch.randn_like(mu), t)
    out = guidance_pictures(prior, predict, x_t, predict(x_t, t), t)
    expected = prior.decode(mu).permute(0, 2, 3, 1)
    torch.testing.assert_close(out["imgs_final"], expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(out["imgs_1orig"], expected, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(out["imgs_noisy"], expected, atol=1e-3)
    times = torch.stack(asked[1:])  # every item walks from its own t towards 0, 50 steps from T
    assert len(times) == 44 and (times.diff(dim=0) < 0).all()
    assert times[-1].tolist() == [20, 2]
