"""The pose energy against its formula, and the templates that it draws."""

from dataclasses import replace
from functools import partial

import pytest
import threestudio
import torch
import torch.nn.functional as F
from helpers.views import gradient, random_views, unchanged
from PIL import Image
from threestudio_jointdreamer.data.cameras import look_at, orbit
from threestudio_jointdreamer.priors.multiview import camera_ring


@pytest.fixture
def make(make_energy, tmp_path):
    few = {"template_samples": 2, "template_steps": 2, "cache_dir": str(tmp_path / "templates")}
    return partial(make_energy, "pose", **few)


@pytest.fixture
def views(sd_prior):
    return random_views(sd_prior, n_object=2, n_view=3)


@pytest.fixture
def with_logits(make, views):
    """The energy, of these cos / τ in place of what is seen."""

    def energy(logits):
        energy = make()
        energy.log_probabilities = lambda _: F.log_softmax(logits, dim=-1)
        return energy(replace(views, azimuth=torch.zeros(logits.shape[:2]), denoised=logits))

    return energy


def test_energy_is_minus_v_times_the_divergence_of_the_mean(make, views):
    energy = make()
    C, seen = energy(views), energy.features(views)
    poses = energy.poses(views)
    for n in range(2):
        p = torch.stack([(F.cosine_similarity(f, poses[n]) / 0.1).softmax(0) for f in seen[n]])
        mean = p.mean(dim=0)
        expected = -3 * (mean * (mean * 4).log()).sum()
        torch.testing.assert_close(C[n], expected)
    assert gradient(C, views).abs().amax(dim=(2, 3, 4)).min() > 0


def test_evenly_spread_poses_have_no_energy_and_one_pose_has_the_least(with_logits):
    sure = 50.0 * torch.eye(4)
    spread, one = sure.repeat(2, 1)[None], sure[:1].repeat(8, 1)[None]
    C = torch.cat([with_logits(spread), with_logits(one)])
    torch.testing.assert_close(C, torch.tensor([0.0, -8 * torch.tensor(4.0).log()]))


def test_its_gradient_is_recdreamers_near_the_uniform(with_logits):
    """Σ_i log Σ_k p(k | x^i) / (K p̄_k) with a p̄ that is a constant, to first order in p̄ − u."""
    x = 1e-3 * torch.randn(1, 6, 4, dtype=torch.float64, generator=torch.manual_seed(0))
    x += torch.randn(1, 1, 4, dtype=torch.float64).expand(1, 6, 4) * 1e-3
    x.requires_grad_()
    p = x.softmax(dim=-1)
    theirs = (p / (4 * p.mean(dim=1, keepdim=True).detach())).sum(dim=-1).log().sum()
    ours, theirs = (torch.autograd.grad(C.sum(), x)[0] for C in (with_logits(x), theirs))
    assert (ours - theirs).norm() < 0.01 * theirs.norm() > 0


@pytest.mark.parametrize("multiview", [True, False])
def test_templates_are_drawn_once_and_read_the_same(make, views, mv_folder, batch_sizes, multiview):
    cfg = {} if multiview else {"template_model_name_or_path": None, "template_samples": 5}
    first, again = make(**cfg), make(**cfg)
    state = torch.get_rng_state()
    with unchanged(views):
        drawn = first.poses(views)
    assert torch.equal(torch.get_rng_state(), state)
    (file,) = first.templates.folder.glob("*.png")  # the two objects have one prompt
    assert Image.open(file).size == (4 * 64, (2 if multiview else 1) * 64)
    calls = batch_sizes(again.templates.multiview.prior.unet if multiview else views.prior.unet)
    assert torch.equal(again.poses(views), drawn) and not calls
    other = make(**cfg, template_seed=1).poses(views)
    assert not torch.allclose(other, drawn) and len(list(file.parent.iterdir())) == 2
    assert (drawn.norm(dim=-1) - 1).abs().max() < 1e-5


def test_other_weights_or_another_prompt_have_templates_of_their_own(make, views):
    energy = make()
    energy.poses(views)
    energy.poses(replace(views, text_embeddings=views.text_embeddings + 0.1))
    other = make()
    next(other.templates.multiview.prior.unet.parameters()).data.add_(0.01)
    other.poses(views)
    assert len(list(energy.templates.folder.iterdir())) == 3


def test_the_most_different_pictures_of_the_2d_prior_are_the_poses(make, views):
    templates = make(template_model_name_or_path=None, n_pose=2).templates
    angle = torch.tensor([0.1, 0.0, 0.2, 1.0])
    templates.embed = lambda _: torch.stack([angle.cos(), angle.sin()], dim=1)
    pictures = torch.arange(4.0)[:, None, None, None]
    assert templates.least_alike(pictures).flatten().tolist() == [2.0, 3.0]
    templates.cfg.n_pose = 5
    with pytest.raises(ValueError, match="energy.template_samples=4 are too few .*n_pose=5"):
        templates.least_alike(pictures)


def test_the_ring_is_the_data_modules(make):
    azimuth = torch.tensor([0.0, 90.0, 180.0, 270.0])
    position = orbit(torch.full((4,), 15.0), azimuth, torch.ones(4))
    expected = look_at(position, torch.zeros(4, 3), torch.tensor([[0.0, 0.0, 1.0]]).expand(4, 3))
    torch.testing.assert_close(camera_ring(4), expected)


@pytest.mark.parametrize("n_view", [3, 5])
def test_order_and_pose_are_terms_of_a_sum_for_any_number_of_views(
    make, make_energy, models, sd_prior, mv_folder, tmp_path, n_view
):
    views = random_views(sd_prior, n_object=2, n_view=n_view)
    named = {"pretrained_model_name_or_path": str(models["pose"])}
    drawn = {
        "template_model_name_or_path": str(mv_folder),
        "cache_dir": str(tmp_path / "templates"),
    }
    few = {"template_samples": 2, "template_steps": 2}
    terms = {
        "order": {"energy_type": "jsd-order-energy", "energy": named, "energy_weight": 2.0},
        "pose": {"energy_type": "jsd-pose-energy", "energy": named | drawn | few},
    }
    total = threestudio.find("jsd-sum-energy")({"energies": terms})(views)
    torch.testing.assert_close(total, 2 * make_energy("order")(views) + make()(views))
    assert gradient(total, views).isfinite().all()
