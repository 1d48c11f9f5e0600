"""The classifier energy against a direct computation of C_CLS."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import threestudio
import torch
import torch.nn.functional as F
from helpers.views import gradient, random_views, unchanged
from omegaconf import OmegaConf
from threestudio.utils.config import parse_structured
from threestudio_jointdreamer.energies.classifier import ClassifierEnergy
from threestudio_jointdreamer.priors.pair_classifier import (
    load_pair_classifier,
    relative_pose,
)

from jointdreamer.testing.cameras import camera_ring
from jointdreamer.testing.prompts import RandomPrompts
from jointdreamer.testing.random_classifiers import IMAGE_SIZE, build_dino, build_pair_classifier

CPU = torch.device("cpu")
CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "energies"
DOWNSAMPLING = 4  # of the tiny VAE
LATENT_SIZE = IMAGE_SIZE // DOWNSAMPLING


@pytest.fixture
def views(sd_prior):
    return random_views(sd_prior, n_view=3)


def directly(folder, views, score, latent_size=LATENT_SIZE):
    """C_CLS, object by object and pair by pair."""
    model = load_pair_classifier(str(folder), CPU)
    total = []
    for n in range(views.n_object):
        images = views.prior.decode(views.denoised[n], latent_size)
        c = views.c2w[n]
        pairs = [(i, j) for i in range(views.n_view) for j in range(views.n_view) if i != j]
        logits = (
            model(images[i, None], images[j, None], c[i, None], c[j, None])[0] for i, j in pairs
        )
        total.append(sum(score(logit) for logit in logits))
    return torch.stack(total)


@pytest.mark.parametrize("output", ["logit", "log_sigmoid"])
def test_energy_and_gradient_are_the_sum_over_ordered_pairs(
    make_classifier, views, classifier_folder, output
):
    score = {"logit": lambda logit: logit, "log_sigmoid": F.logsigmoid}[output]
    C, expected = make_classifier(output=output)(views), directly(classifier_folder, views, score)
    torch.testing.assert_close(C, expected)
    assert (C[0] - C[1]).abs() > 1e-3
    g, g_expected = gradient(C, views), gradient(expected, views)
    assert (g - g_expected).norm() < 1e-4 * g_expected.norm()
    assert g.abs().amax(dim=(2, 3, 4)).min() > 0


def test_logits_are_listed_by_view_and_the_others_in_order(
    make_classifier, views, classifier_folder
):
    energy = make_classifier()
    logits = energy.logits(views)
    assert logits.shape == (2, 6)  # (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)
    images = views.prior.decode(views.denoised[1], LATENT_SIZE)
    pose = relative_pose(views.c2w[1, 2, None], views.c2w[1, 1, None])
    features = energy.model.features(images)
    expected = energy.model.head(features[2, None], features[1, None], pose)
    torch.testing.assert_close(logits[1, 5], expected[0])


def test_a_step_along_the_gradient_raises_the_energy(make_classifier, views):
    energy = make_classifier()
    C = energy(views)
    g = gradient(C, views)
    moved = replace(views, denoised=views.denoised.detach() + 1e-3 * g / g.norm())
    slope = (energy(moved) - C) / 1e-3
    torch.testing.assert_close(slope.sum(), g.norm(), rtol=0.05, atol=0)


def test_probabilities_saturate_and_logits_do_not(classifier_folder, views, tmp_path):
    sure = build_pair_classifier(tmp_path / "sure", gain=3.0)
    head = load_pair_classifier(str(sure), CPU).head
    head.logit.bias.data += 60.0  # every pair passes
    head.save_pretrained(sure / "head")
    by_output = {}
    for output in ("logit", "log_sigmoid"):
        energy = ClassifierEnergy({"pretrained_model_name_or_path": str(sure), "output": output})
        by_output[output] = gradient(energy(views), views).norm()
    assert by_output["log_sigmoid"] < 1e-9 * by_output["logit"]


def test_extreme_logits_have_finite_energies_and_gradients(views, tmp_path):
    for bias in (-1e4, 1e4):
        folder = build_pair_classifier(tmp_path / f"{bias}", gain=3.0)
        head = load_pair_classifier(str(folder), CPU).head
        head.logit.bias.data += bias
        head.save_pretrained(folder / "head")
        C = ClassifierEnergy({"pretrained_model_name_or_path": str(folder)})(views)
        assert C.isfinite().all() and gradient(C, views).isfinite().all()


def test_each_view_is_decoded_and_seen_once_at_the_classifiers_size(make_classifier, views):
    energy, decoded, seen = make_classifier(), [], []
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


def test_the_size_to_decode_at_can_be_chosen(make_classifier, views, classifier_folder):
    C = make_classifier(decode_latent_size=16)(views)
    torch.testing.assert_close(C, directly(classifier_folder, views, F.logsigmoid, latent_size=16))
    assert not torch.allclose(C, make_classifier()(views), rtol=1e-3)


def test_gradient_checkpointing_changes_memory_alone(make_classifier, views):
    sizes, decode = [], views.prior.decode

    def record(latents, latent_size=None):
        sizes.append(len(latents))
        return decode(latents, latent_size)

    views = replace(views, prior=SimpleNamespace(decode=record))
    plain = make_classifier()(views)
    g_plain = gradient(plain, views)
    sizes.clear()
    C = make_classifier(gradient_checkpointing=True, decode_latent_size=LATENT_SIZE)(views)
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


def test_objects_do_not_see_each_other(make_classifier, views):
    energy = make_classifier()
    (g,) = torch.autograd.grad(energy(views)[0], views.denoised)
    assert g[0].abs().max() > 0 and g[1].abs().max() == 0


def test_no_tensor_of_the_caller_is_changed_and_no_weight_gets_a_gradient(make_classifier, views):
    energy = make_classifier(gradient_checkpointing=True)
    state = torch.get_rng_state()
    with unchanged(views):
        energy(views).sum().backward()
    assert all(p.grad is None for p in energy.model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_guidance_takes_a_step_with_it(sd_folder, classifier_folder):
    guidance = threestudio.find("jsd-guidance")(
        {
            "pretrained_model_name_or_path": str(sd_folder),
            "energy_type": "jsd-classifier-energy",
            "energy": {"pretrained_model_name_or_path": str(classifier_folder)},
            "energy_weight": 1.0,
        }
    )
    rgb = torch.rand(8, 20, 20, 3, requires_grad=True)
    out = guidance(rgb, RandomPrompts(), **camera_ring(2, 4), guidance_eval=True)
    out["loss_sds"].backward()
    assert out["energy"] < 0 and out["energy_grad_norm"] > 0
    assert rgb.grad.abs().sum() > 0
    assert "imgs_energy" not in out["eval"]


def test_another_backbone_can_be_named(make_classifier, views, tmp_path):
    other = make_classifier(backbone_name_or_path=str(build_dino(tmp_path, seed=7)))
    assert not torch.allclose(other(views), make_classifier()(views), rtol=1e-3)


def test_every_term_of_the_committed_sum_parses_with_its_class():
    terms = OmegaConf.load(CONFIGS / "sum.yaml").energy.energies
    assert {term.energy_type for term in terms.values()} == {
        "jsd-multiview-energy",
        "jsd-translation-energy",
        "jsd-classifier-energy",
    }
    for term in terms.values():
        parse_structured(threestudio.find(term.energy_type).Config, term.energy)


def test_committed_terms_agree_with_the_snippet_of_their_energy():
    terms = OmegaConf.load(CONFIGS / "sum.yaml").energy.energies
    for name, term in terms.items():
        snippet = OmegaConf.load(CONFIGS / f"{name}.yaml")
        assert term.energy_type == snippet.energy_type
        assert {key: snippet.energy[key] for key in term.energy} == dict(term.energy)


@pytest.mark.parametrize(("reference", "chosen"), [("first", [0, 0]), ("frontal", [2, 1])])
def test_with_a_reference_the_others_are_judged_beside_it(
    classifier_folder, make_classifier, views, reference, chosen
):
    azimuth = torch.tensor([[80.0, 200.0, -10.0], [-100.0, 355.0, 140.0]])
    views = replace(views, azimuth=azimuth)
    energy = make_classifier(reference=reference)
    logits = energy.logits(views)
    assert logits.shape == (2, 4)
    model = load_pair_classifier(str(classifier_folder), CPU)
    for n, r in enumerate(chosen):
        images = views.prior.decode(views.denoised[n], LATENT_SIZE)
        others = [(r + 1) % 3, (r + 2) % 3]
        for k, v in enumerate(others):
            there, back = ((a, b) for a, b in ((r, v), (v, r)))
            for row, (a, b) in enumerate((there, back)):
                c = views.c2w[n]
                alone = model(images[a, None], images[b, None], c[a, None], c[b, None])[0]
                torch.testing.assert_close(logits[n, 2 * row + k], alone, rtol=1e-3, atol=1e-4)
    moved = gradient(energy(views), views).abs().amax(dim=(2, 3, 4))
    for n, r in enumerate(chosen):
        assert moved[n, r] == 0 and (moved[n] > 0).sum() == 2


def test_a_random_reference_is_one_for_all_pairs_of_a_step(make_classifier, views):
    energy, still = make_classifier(reference="random"), set()
    for seed in range(8):
        torch.manual_seed(seed)
        moved = gradient(energy(views), views).abs().amax(dim=(2, 3, 4)) > 0
        assert moved.sum(dim=1).tolist() == [2, 2]
        still.add(tuple((~moved).long().argmax(dim=1).tolist()))
    assert len(still) > 3
