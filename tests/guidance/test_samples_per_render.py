"""`samples_per_render`: several timesteps and noises for one render."""

import torch


def test_the_gradient_is_the_mean_of_as_many_steps(make_guidance, coherence, prompts, cameras):
    settings = {"energy_type": "test-coherence-energy", "energy_weight": 0.5}
    latents = torch.randn(8, 16, 16, 4)

    def gradient(guidance):
        x = latents.clone().requires_grad_()
        loss = guidance(x, prompts, **cameras, rgb_as_latents=True)["loss_sds"]
        return torch.autograd.grad(loss, x)[0]

    single = make_guidance(**settings)
    torch.manual_seed(0)
    expected = (gradient(single) + gradient(single) + gradient(single)) / 3
    torch.manual_seed(0)
    found = gradient(make_guidance(**settings, samples_per_render=3))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(found, gradient(single))


def test_a_render_is_encoded_once(make_guidance, rgb, prompts, cameras):
    guidance, calls = make_guidance(samples_per_render=2, energy_weight=0.0), []
    guidance.prior.vae.encoder.register_forward_hook(lambda *_: calls.append("vae"))
    guidance.prior.unet.register_forward_hook(lambda *_: calls.append("unet"))
    guidance(rgb, prompts, **cameras)
    assert calls == ["vae", "unet", "unet"]
