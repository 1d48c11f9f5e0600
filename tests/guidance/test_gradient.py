"""The guidance's gradient against section 4 of the paper's equations, written again in float64."""

import copy
from dataclasses import replace
from itertools import product

import pytest
import torch
from threestudio_jointdreamer.guidance.classifier_free import Prompts
from threestudio_jointdreamer.guidance.jsd import JointScoreDistillation
from torch.nn.functional import interpolate

S, LAMBDA = 7.5, 0.4
# Moderate noise: x̂0 divides the UNet's float32 rounding, times 2 s + 1, by √ᾱ_t / σ_t.
STEPS = {"min_step_percent": 0.1, "max_step_percent": 0.3}
W = {"sds": lambda a: 1 - a, "uniform": lambda a: 1.0, "fantasia3d": lambda a: a**0.5 * (1 - a)}


def reference(guidance, x, t, eps, prompts, angles, C, **cfg):
    """∂L/∂x [B C h w], object by object, with autograd for g; everything in float64.

    Args:
        x, eps: [B C h w], of two objects with four views each.
        t: [2].
        C: the energy of one object's x̂0 [V C h w].
        cfg: the guidance's keys.
    """
    x, eps = (v.double().unflatten(0, (2, 4)) for v in (x, eps))
    unet = copy.deepcopy(guidance.prior.unet).double()
    table = guidance.prior.schedule.alphas_cumprod.double()
    embeddings = prompts.get_text_embeddings(*angles).double()
    y, empty = (e.unflatten(0, x.shape[:2]) for e in embeddings.chunk(2))
    grads = []
    for n in range(len(x)):
        a = table[t[n]]
        sigma = (1 - a).sqrt()
        x_t = (a.sqrt() * x[n] + sigma * eps[n]).requires_grad_()
        text, uncond = (unet(x_t, t[n], e[n]).sample for e in (y, empty))
        guided = (1 + cfg["guidance_scale"]) * text - cfg["guidance_scale"] * uncond
        phi = cfg.get("cfg_rescale", 0.0)
        contrast = torch.stack([p.std() / q.std() for p, q in zip(text, guided, strict=True)])
        guided = phi * contrast.view(-1, 1, 1, 1) * guided + (1 - phi) * guided
        noises = {"text": text, "uncond": uncond, "cfg": guided, "render": eps[n]}
        noise = noises[cfg["denoised_from"]]
        if cfg["energy_gradient"] == "denoised":
            noise = noise.detach()
        x0 = (x_t - sigma * noise) / a.sqrt()
        if cfg.get("denoised_clamp") is not None:
            x0 = x0.clamp(-cfg["denoised_clamp"], cfg["denoised_clamp"])
        (g,) = torch.autograd.grad(C(x0[None]).sum(), x_t)
        w = W[cfg.get("weighting_strategy", "sds")](a)
        grads.append(w * (guided.detach() - cfg["energy_weight"] * sigma * g - eps[n]))
    return torch.cat(grads)


def relative_error(ours, expected):
    return ((ours.double() - expected).norm() / expected.norm()).item()


CASES = [
    {"denoised_from": source, "energy_gradient": gradient}
    for source, gradient in product(("uncond", "text", "cfg", "render"), ("denoised", "unet"))
] + [
    {"denoised_from": "cfg", "energy_gradient": "unet", "weighting_strategy": "uniform"}
    | {"cfg_rescale": 0.7},
    {"denoised_from": "uncond", "energy_gradient": "denoised", "weighting_strategy": "fantasia3d"}
    | {"denoised_clamp": 1.0},
    {"denoised_from": "uncond", "energy_gradient": "denoised", "energy_weight": -LAMBDA},
]
COMMON = {"guidance_scale": S, "energy_weight": LAMBDA}
each_case = pytest.mark.parametrize(
    "case", CASES, ids=lambda case: "-".join(map(str, case.values()))
)


@each_case
def test_gradient_in_the_latents_is_section_4(
    make_guidance, prompts, cameras, angles, coherence, case
):
    cfg = COMMON | case
    guidance = make_guidance(energy_type="test-coherence-energy", **STEPS, **cfg)
    latents = torch.randn(8, 16, 16, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    torch.manual_seed(11)
    guidance(latents, prompts, **cameras, rgb_as_latents=True)["loss_sds"].backward()

    torch.manual_seed(11)
    t = torch.randint(100, 301, [2])
    x = latents.detach().permute(0, 3, 1, 2)
    eps = torch.randn_like(x)
    expected = reference(guidance, x, t, eps, prompts, angles, coherence.of, **cfg)
    assert relative_error(8 * latents.grad.permute(0, 3, 1, 2), expected) < 1e-5


@each_case
@pytest.mark.parametrize("step", [20, 500, 979])
def test_gradient_is_section_4_at_every_noise_level(
    make_guidance, prompts, angles, coherence, case, step
):
    """The equations in float64 on both sides, where no rounding of the UNet hides a mistake."""
    cfg = COMMON | case
    guidance = make_guidance(energy_type="test-coherence-energy", **STEPS, **cfg)
    expected_from, prior = copy.deepcopy(guidance), guidance.prior
    prior.unet.double()
    prior.dtype = torch.float64
    x = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    t, eps = torch.full((8,), step), torch.randn_like(x)
    ours = JointScoreDistillation(**cfg)(
        x,
        t,
        prior,
        Prompts.for_views(prompts, *angles, view_dependent=True),
        lambda x0_hat, x_t, eps: coherence.of(x0_hat.unflatten(0, (2, 4))),
        eps,
    )
    expected = reference(expected_from, x, t[::4], eps, prompts, angles, coherence.of, **cfg)
    # cfg_rescale divides by a standard deviation plus 1e-8, the equations by the deviation
    tolerance = 1e-5 if "cfg_rescale" in cfg else 1e-9
    assert relative_error(ours.grad, expected) < tolerance


def test_gradient_in_the_renders_goes_through_the_encoder(
    make_guidance, prompts, cameras, angles, coherence
):
    cfg = COMMON | {"denoised_from": "uncond", "energy_gradient": "denoised"}
    guidance = make_guidance(energy_type="test-coherence-energy", **STEPS, **cfg)
    rgb = torch.rand(8, 32, 32, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    torch.manual_seed(11)
    guidance(rgb, prompts, **cameras)["loss_sds"].backward()

    layout = guidance.prior.encode(torch.rand(8, 32, 32, 3).permute(0, 3, 1, 2))
    torch.manual_seed(11)
    z = torch.randn(8, 4, 16, 16)  # the VAE's sample comes first
    t = torch.randint(100, 301, [2])
    eps = torch.randn_like(layout)  # random numbers depend on the memory layout
    vae = copy.deepcopy(guidance.prior.vae).double()
    pixels = rgb.detach().double().requires_grad_()
    images = interpolate(pixels.permute(0, 3, 1, 2), (64, 64), mode="bilinear")
    posterior = vae.encode(2 * images - 1).latent_dist
    x = vae.config.scaling_factor * (posterior.mean + posterior.std * z.double())
    grad = reference(guidance, x.detach(), t, eps, prompts, angles, coherence.of, **cfg)
    x.backward(grad / 8)
    assert relative_error(rgb.grad, pixels.grad) < 1e-5


def test_the_multiview_energy_is_a_reconstruction_pull_and_a_drift_correction(
    make_guidance, prompts, cameras, mv_folder
):
    """With κ = 2 λ σ/√ᾱ, JSD's bracket is SDS's plus κ (x − x_mv) + κ (σ/√ᾱ)(ε − ε_∅)."""
    guidance = make_guidance(
        guidance_scale=S,
        energy_weight=LAMBDA,
        weighting_strategy="uniform",
        energy_type="jsd-multiview-energy",
        energy={"pretrained_model_name_or_path": str(mv_folder), "noise": "shared"},
    )
    latents = torch.randn(8, 16, 16, 4, generator=torch.Generator().manual_seed(0))

    def bracket(energy_weight):
        guidance.method = replace(guidance.method, energy_weight=energy_weight)
        x = latents.clone().requires_grad_()
        torch.manual_seed(2)
        out = guidance(x, prompts, **cameras, rgb_as_latents=True)
        out["loss_sds"].backward()
        return 8 * x.grad.permute(0, 3, 1, 2)

    seen, energy = [], guidance.energy.__class__.predict
    guidance.energy.predict = lambda views: seen.append(views) or energy(guidance.energy, views)
    difference = bracket(LAMBDA) - bracket(0.0)

    (views,) = seen
    x_mv = energy(guidance.energy, views).flatten(0, 1)
    x, eps, x_t = (v.flatten(0, 1) for v in (views.latents, views.noise, views.noisy))
    t = views.t.repeat_interleave(4)
    a = views.prior.schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
    sigma, kappa = (1 - a).sqrt(), 2 * LAMBDA * (1 - a).sqrt() / a.sqrt()
    with torch.no_grad():
        empty = prompts.uncond_text_embeddings.expand(8, -1, -1)
        eps_uncond = guidance.prior.unet(x_t, t, empty).sample
    expected = kappa * (x - x_mv) + kappa * sigma / a.sqrt() * (eps - eps_uncond)
    assert relative_error(difference, expected.double()) < 1e-4  # a difference of two gradients
