"""The classifier energy against a direct computation of C_CLS."""

from dataclasses import replace
from functools import partial
from itertools import permutations
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from helpers.views import gradient, random_views, unchanged
from threestudio_jointdreamer.energies.classifier import ClassifierEnergy
from threestudio_jointdreamer.priors.pair_classifier import (
    load_pair_classifier,
)

from jointdreamer.testing.random_classifiers import IMAGE_SIZE, build_dino, build_pair_classifier

CPU = torch.device("cpu")
DOWNSAMPLING = 4  # of the tiny VAE
LATENT_SIZE = IMAGE_SIZE // DOWNSAMPLING


@pytest.fixture
def views(sd_prior):
    return random_views(sd_prior, n_view=3)


@pytest.fixture
def folder(models):
    return models["classifier"]


@pytest.fixture
def make(make_energy):
    return partial(make_energy, "classifier")


def directly(folder, views, score=F.logsigmoid, latent_size=LATENT_SIZE, reference=None):
    """C_CLS, object by object and pair by pair; only the pairs of a reference if there is one."""
    model = load_pair_classifier(str(folder), CPU)
    total = []
    for n in range(views.n_object):
        images = views.prior.decode(views.denoised[n], latent_size)
        c = views.c2w[n]
        pairs = list(permutations(range(views.n_view), 2))
        if reference is not None:
            pairs = [pair for pair in pairs if reference[n] in pair]
        logits = (
            model(images[i, None], images[j, None], c[i, None], c[j, None])[0] for i, j in pairs
        )
        total.append(sum(score(logit) for logit in logits))
    return torch.stack(total)


@pytest.mark.parametrize("output", ["logit", "log_sigmoid"])
def test_energy_and_gradient_are_the_sum_over_ordered_pairs(make, views, folder, output):
    score = {"logit": lambda logit: logit, "log_sigmoid": F.logsigmoid}[output]
    C, expected = make(output=output)(views), directly(folder, views, score)
    torch.testing.assert_close(C, expected)
    assert (C[0] - C[1]).abs() > 1e-3
    g, g_expected = gradient(C, views), gradient(expected, views)
    assert (g - g_expected).norm() < 1e-4 * g_expected.norm()
    assert g.abs().amax(dim=(2, 3, 4)).min() > 0


def test_extreme_logits_have_finite_energies_and_gradients(views, tmp_path):
    for bias in (-1e4, 1e4):
        folder = build_pair_classifier(tmp_path / f"{bias}", gain=3.0)
        head = load_pair_classifier(str(folder), CPU).head
        head.logit.bias.data += bias
        head.save_pretrained(folder / "head")
        C = ClassifierEnergy({"pretrained_model_name_or_path": str(folder)})(views)
        assert C.isfinite().all() and gradient(C, views).isfinite().all()


def test_each_view_is_decoded_and_seen_once_at_the_classifiers_size(make, views):
    energy, decoded, seen = make(), [], []
    decode = views.prior.decode

    def record(latents, latent_size=None):
        decoded.append((len(latents), latent_size))
        return decode(latents, latent_size)

    energy.model.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["pixel_values"].shape)),
        with_kwargs=True,
    )
    energy(replace(views, prior=SimpleNamespace(decode=record)))
    energy(replace(views, prior=SimpleNamespace(decode=record)))
    probe, *steps = decoded
    assert probe[0] == 1  # once, to learn how many pixels a latent makes
    assert steps == [(6, LATENT_SIZE)] * 2
    assert [shape[0] for shape in seen] == [6, 6, 6] * 2
    assert [shape[-1] for shape in seen[:3]] == [32, 16, 8]


def test_the_size_to_decode_at_can_be_chosen(make, views, folder):
    C = make(decode_latent_size=16)(views)
    torch.testing.assert_close(C, directly(folder, views, latent_size=16))
    assert not torch.allclose(C, make()(views), rtol=1e-3)


def test_gradient_checkpointing_changes_memory_alone(make, views):
    sizes, decode = [], views.prior.decode

    def record(latents, latent_size=None):
        sizes.append(len(latents))
        return decode(latents, latent_size)

    views = replace(views, prior=SimpleNamespace(decode=record))
    plain = make()(views)
    g_plain = gradient(plain, views)
    sizes.clear()
    C = make(gradient_checkpointing=True, decode_latent_size=LATENT_SIZE)(views)
    g = gradient(C, views)
    torch.testing.assert_close(C, plain)
    assert (g - g_plain).norm() < 1e-4 * g_plain.norm()
    assert sizes == [1] * 12  # every view on its own, and once more for the gradient


@pytest.mark.parametrize("gain", [1e-4, 1e6])
def test_faint_and_steep_gradients_survive_half_precision(views, tmp_path, gain):
    """Of 1e-7 a pixel, of which fp16 keeps a bit or two, and of 1e3, which overflow on the way."""
    folder = build_pair_classifier(tmp_path / "classifier", gain=gain)

    def decode(latents, latent_size, dtype):
        small = F.interpolate(latents[:, :3], (latent_size, latent_size), mode="bilinear")
        return F.interpolate(small.to(dtype), scale_factor=4).float().sigmoid()

    g = {}
    for dtype in (torch.float16, torch.float32):
        energy = ClassifierEnergy({"pretrained_model_name_or_path": str(folder), "output": "logit"})
        energy.model.backbone.to(dtype)
        seen = replace(
            views, prior=SimpleNamespace(decode=lambda x, size, dtype=dtype: decode(x, size, dtype))
        )
        g[dtype] = gradient(energy(seen), views)
    assert (g[torch.float16] - g[torch.float32]).norm() < 0.02 * g[torch.float32].norm()


def test_no_tensor_of_the_caller_is_changed_and_no_weight_gets_a_gradient(make, views):
    energy = make(gradient_checkpointing=True)
    state = torch.get_rng_state()
    with unchanged(views):
        energy(views).sum().backward()
    assert all(p.grad is None for p in energy.model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_another_backbone_can_be_named(make, views, tmp_path):
    other = make(backbone_name_or_path=str(build_dino(tmp_path, seed=7)))
    assert not torch.allclose(other(views), make()(views), rtol=1e-3)


@pytest.mark.parametrize(("reference", "chosen"), [("first", [0, 0]), ("frontal", [2, 1])])
def test_with_a_reference_the_others_are_judged_beside_it(folder, make, views, reference, chosen):
    azimuth = torch.tensor([[80.0, 200.0, -10.0], [-100.0, 355.0, 140.0]])
    views = replace(views, azimuth=azimuth)
    C = make(reference=reference)(views)
    expected = directly(folder, views, reference=chosen)
    torch.testing.assert_close(C, expected)
    g, g_expected = gradient(C, views), gradient(expected, views)
    g_expected[range(2), chosen] = 0.0  # the reference is taken as it is
    assert (g - g_expected).norm() < 1e-4 * g_expected.norm()
    assert g[range(2), chosen].abs().max() == 0
