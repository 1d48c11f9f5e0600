"""Perp-Neg, asked for by the prompt processor, against its formula view by view."""

import pytest
import torch
from threestudio_jointdreamer.guidance.classifier_free import perpendicular_part

from jointdreamer.testing.prompts import RandomPrompts

S = 7.5


@pytest.fixture
def perp_neg_prompts():
    return RandomPrompts(perp_neg=True)


def run(guidance, prompts, cameras):
    x = torch.randn(8, 16, 16, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    torch.manual_seed(4)
    guidance(x, prompts, **cameras, rgb_as_latents=True)["loss_sds"].backward()
    return 8 * x.grad.permute(0, 3, 1, 2)


def test_gradient_is_perp_negs(make_guidance, perp_neg_prompts, cameras, angles):
    guidance = make_guidance(guidance_scale=S, weighting_strategy="uniform")
    ours = run(guidance, perp_neg_prompts, cameras)

    x = torch.randn(8, 16, 16, 4, generator=torch.Generator().manual_seed(0)).permute(0, 3, 1, 2)
    torch.manual_seed(4)
    t = torch.randint(20, 981, [2]).repeat_interleave(4)
    eps = torch.randn_like(x)
    x_t = guidance.prior.schedule.add_noise(x, eps, t)
    embeddings, weights = perp_neg_prompts.get_text_embeddings_perp_neg(*angles)
    for b in range(8):
        rows = torch.stack(
            [embeddings[b], embeddings[8 + b], embeddings[16 + 2 * b], embeddings[17 + 2 * b]]
        )
        with torch.no_grad():
            view = x_t[b].expand(4, -1, -1, -1)
            text, uncond, *negatives = guidance.prior.unet(view, t[b], rows).sample
        positive = text - uncond
        direction = positive.clone()
        for weight, negative in zip(weights[b], negatives, strict=True):
            e = negative - uncond
            along = (e * positive).sum() / (positive * positive).sum()
            direction += weight * (e - along * positive)
        expected = uncond + S * direction - eps[b]
        assert (ours[b] - expected).norm() < 1e-5 * expected.norm()


def test_without_negative_weights_the_scale_counts_from_one(
    make_guidance, prompts, perp_neg_prompts, cameras, monkeypatch
):
    with_weights = perp_neg_prompts.get_text_embeddings_perp_neg

    def without_weights(*cameras):
        embeddings, weights = with_weights(*cameras)
        return embeddings, torch.zeros_like(weights)

    monkeypatch.setattr(perp_neg_prompts, "get_text_embeddings_perp_neg", without_weights)
    perp_neg = run(make_guidance(guidance_scale=S + 1), perp_neg_prompts, cameras)
    plain = run(make_guidance(guidance_scale=S), prompts, cameras)
    torch.testing.assert_close(perp_neg, plain, rtol=1e-4, atol=1e-4)


def test_all_prompts_take_one_call(make_guidance, perp_neg_prompts, cameras, batch_sizes):
    guidance = make_guidance()
    sizes = batch_sizes(guidance.prior.unet)
    run(guidance, perp_neg_prompts, cameras)
    assert sizes == [4 * 8]


def test_perp_neg_works_with_an_energy_through_the_unet(
    make_guidance, perp_neg_prompts, cameras, coherence
):
    guidance = make_guidance(
        energy_type="test-coherence-energy", denoised_from="cfg", energy_gradient="unet"
    )
    assert run(guidance, perp_neg_prompts, cameras).isfinite().all()
    assert coherence.evaluations == 1


def test_perp_neg_needs_view_dependent_prompts(make_guidance, perp_neg_prompts, cameras):
    guidance = make_guidance(view_dependent_prompting=False)
    with pytest.raises(ValueError, match="use_perp_neg=true needs view-dependent prompts"):
        run(guidance, perp_neg_prompts, cameras)


def test_the_perpendicular_part_is_perpendicular_and_survives_zero():
    x, y = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    part = perpendicular_part(x, y)
    assert (part * y).sum(dim=(1, 2, 3)).abs().max() < 1e-3
    torch.testing.assert_close(perpendicular_part(part, y), part, atol=1e-5, rtol=1e-4)
    assert torch.equal(perpendicular_part(x, torch.zeros_like(y)), x)
