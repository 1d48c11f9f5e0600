"""jsd-guidance without an energy against threestudio's: loss and gradient under one seed."""

import pytest
import threestudio
import torch
from helpers.full_size import build_pipelines
from helpers.mixed_runs import relative_difference
from threestudio.utils.misc import get_device

from jointdreamer.testing.cameras import camera_ring
from jointdreamer.testing.prompts import RandomPrompts

TOLERANCE = 1e-4
LATENTS = {True: 4, False: 3}  # channels of what is rendered


@pytest.fixture(autouse=True)
def single_precision(monkeypatch):
    """A GPU's convolutions round to ten bits (TF32) by default."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(build_pipelines(tmp_path_factory.mktemp("priors")).stable_diffusion)


@pytest.fixture(scope="module")
def make(folder):
    def make(guidance_type, **cfg):
        same = {"pretrained_model_name_or_path": folder, "guidance_scale": 7.5}
        same["half_precision_weights"] = False
        return threestudio.find(guidance_type)(same | cfg)

    return make


@pytest.fixture(scope="module")
def ours(make):
    return lambda **cfg: make("jsd-guidance", energy_weight=0.0, **{"n_view": 1} | cfg)


@pytest.fixture(scope="module")
def theirs(make):
    return lambda **cfg: make("stable-diffusion-guidance", **cfg)


def distil(guidance, n_view=2, rgb_as_latents=False, perp_neg=False):
    """Loss and its gradient in the renders, under one seed."""
    prompts = RandomPrompts(perp_neg=perp_neg).to(get_device())
    cameras = {key: value.to(get_device()) for key, value in camera_ring(1, n_view).items()}
    generator = torch.Generator().manual_seed(1)
    rgb = torch.rand(n_view, 32, 32, LATENTS[rgb_as_latents], generator=generator)
    rgb = rgb.to(get_device()).requires_grad_()
    torch.manual_seed(4)
    loss = guidance(rgb, prompts, **cameras, rgb_as_latents=rgb_as_latents)["loss_sds"]
    loss.backward()
    return loss.item(), rgb.grad


def assert_same(ours, theirs):
    (our_loss, our_grad), (their_loss, their_grad) = ours, theirs
    assert relative_difference(our_loss, their_loss) < TOLERANCE
    assert (our_grad - their_grad).norm() < TOLERANCE * their_grad.norm()


@pytest.mark.parametrize("rgb_as_latents", [False, True], ids=["renders", "latents"])
@pytest.mark.parametrize("weighting_strategy", ["sds", "uniform", "fantasia3d"])
def test_plain_cfg_agrees(ours, theirs, weighting_strategy, rgb_as_latents):
    cfg = {"weighting_strategy": weighting_strategy}
    assert_same(*(distil(g(**cfg), rgb_as_latents=rgb_as_latents) for g in (ours, theirs)))


def test_score_jacobian_chaining_is_sds_of_uniform_weight(ours, theirs):
    assert_same(
        distil(ours(weighting_strategy="uniform"), rgb_as_latents=True),
        distil(theirs(use_sjc=True, var_red=True), rgb_as_latents=True),
    )


def test_perp_neg_agrees_for_one_view(ours, theirs):
    assert_same(*(distil(g(), n_view=1, perp_neg=True) for g in (ours, theirs)))


def test_perp_neg_differs_for_more_views(ours, theirs):
    """There a view's negative prompts meet the noisy latents of other views, here only its own."""
    (_, our_grad), (_, their_grad) = (distil(g(), perp_neg=True) for g in (ours, theirs))
    assert (our_grad - their_grad).norm() > 0.01 * their_grad.norm()


def test_views_of_one_object_share_a_timestep_here_and_not_there(ours, theirs):
    (_, our_grad), (_, their_grad) = distil(ours(n_view=2)), distil(theirs())
    assert (our_grad - their_grad).norm() > 0.01 * their_grad.norm()
