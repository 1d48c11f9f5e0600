"""The baselines' gradients are those of the losses that they stand for."""

import pytest
import threestudio
import torch
from helpers.prior_fixtures import mv_folder, sd_folder  # noqa: F401

from benchmarks.baselines import running
from jointdreamer.testing.cameras import camera_ring
from jointdreamer.testing.prompts import RandomPrompts

LAMBDA = 0.7


@pytest.fixture
def distil(sd_folder, mv_folder):  # noqa: F811
    """Runs a guidance on one object; x, what was distilled, and the guidance."""
    running.register()

    def run(guidance_type="jsd-guidance", loss="score", **changes):
        energy = {
            "pretrained_model_name_or_path": str(mv_folder),
            "noise": "shared",
            "guidance_scale": 3.0,
            "loss": loss,
        }
        config = {
            "pretrained_model_name_or_path": str(sd_folder),
            "guidance_scale": 5.0,
            "n_view": 4,
            "energy_type": "multiview-distillation-energy",
            "energy_weight": LAMBDA,
            "energy": energy,
        }
        guidance = threestudio.find(guidance_type)(config | changes)
        kept = []
        base = threestudio.find("jsd-guidance")
        loss_of = base._loss

        def keeping(self, x, distilled):
            kept.append((x.detach(), distilled))
            return loss_of(self, x, distilled)

        base._loss = keeping
        try:
            torch.manual_seed(3)
            rgb = torch.rand(4, 16, 16, 3).requires_grad_()
            out = guidance(rgb, RandomPrompts(), **camera_ring(1, 4))
        finally:
            base._loss = loss_of
        assert torch.isfinite(out["loss_sds"])
        return *kept[-1], guidance

    return run


def parts(distilled, guidance):
    """w, sqrt(abar), sigma and the multi-view model's estimate."""
    schedule, like = guidance.prior.schedule, distilled.x_t
    alpha_bar, sigma = schedule.alpha_bar(distilled.t, like), schedule.sigma(distilled.t, like)
    x_mv = guidance.energy.predict(distilled.views).flatten(0, 1)
    return sigma**2, alpha_bar.sqrt(), sigma, x_mv


def close(found, expected):
    return (found - expected).norm() < 1e-4 * expected.norm()


def test_weighted_sum_adds_the_sds_loss_of_the_multi_view_model(distil):
    x, distilled, guidance = distil()
    w, root, sigma, x_mv = parts(distilled, guidance)
    eps = (distilled.x_t - root * x) / sigma
    eps_mv = (distilled.x_t - root * x_mv) / sigma
    expected = w * (distilled.eps_hat - eps) + LAMBDA * w * (eps_mv - eps)
    assert close(distilled.grad, expected)
    sds = distil(energy_type="jsd-zero-energy", energy={}, energy_weight=0.0)[1]
    assert torch.equal(sds.x_t, distilled.x_t)
    assert close(distilled.grad - sds.grad, LAMBDA * w * (eps_mv - eps))


def test_weighted_sum_can_add_mvdreams_reconstruction_loss(distil):
    x, distilled, guidance = distil(loss="reconstruction")
    w, root, sigma, x_mv = parts(distilled, guidance)
    eps = (distilled.x_t - root * x) / sigma
    assert close(distilled.grad, w * (distilled.eps_hat - eps) + LAMBDA * (x - x_mv))


@pytest.mark.parametrize("loss", ["score", "reconstruction"])
def test_multiview_alone_leaves_the_2d_prior_out(distil, loss):
    x, distilled, guidance = distil("multiview-distillation-guidance", loss)
    w, root, sigma, x_mv = parts(distilled, guidance)
    share = w * root / sigma if loss == "score" else 1.0
    assert close(distilled.grad, LAMBDA * share * (x - x_mv))
    assert not distilled.eps_hat.any()


def test_mistakes_are_named(distil):
    with pytest.raises(ValueError, match="needs multiview-distillation-energy"):
        distil("multiview-distillation-guidance", energy_type="jsd-zero-energy", energy={})
    with pytest.raises(ValueError, match="energy_weight is 0"):
        distil("multiview-distillation-guidance", energy_weight=0.0)
    with pytest.raises(ValueError, match="energy.loss='other'"):
        distil(loss="other")
