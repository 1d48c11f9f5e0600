"""`memory: low` gives the default's numbers, from one view's graph at a time."""

import torch


def loss_and_gradient(guidance, rgb, prompts, cameras):
    rgb = rgb.clone().requires_grad_()
    torch.manual_seed(3)
    out = guidance(rgb, prompts, **cameras)
    return out["loss_sds"], *torch.autograd.grad(out["loss_sds"], rgb)


def test_loss_and_gradient_are_the_defaults(make_guidance, coherence, rgb, prompts, cameras):
    settings = {"energy_type": "test-coherence-energy", "energy_weight": 0.5}
    inputs = rgb, prompts, cameras
    expected = loss_and_gradient(make_guidance(**settings), *inputs)
    found = loss_and_gradient(make_guidance(**settings, memory="low"), *inputs)
    for ours, plain in zip(found, expected, strict=True):
        assert (ours - plain).norm() / plain.norm() < 1e-5


def test_the_encoder_sees_one_view_with_a_graph_at_a_time(make_guidance, rgb, prompts, cameras):
    assert views_encoded(make_guidance(memory="low"), rgb, prompts, cameras) == [1] * 2 * len(rgb)


def test_a_chosen_number_of_views_needs_no_other_key(make_guidance, rgb, prompts, cameras):
    chunk = len(rgb) // 2
    guidance = make_guidance(encode_chunk=chunk + 1)  # two parts of one size
    assert views_encoded(guidance, rgb, prompts, cameras) == [chunk] * 4


def views_encoded(guidance, rgb, prompts, cameras):
    """How many at a time, forward and backward."""
    seen = []
    guidance.prior.vae.encoder.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    loss_and_gradient(guidance, rgb, prompts, cameras)
    return seen
