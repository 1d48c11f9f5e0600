"""The baselines' gradients are those of the losses that they stand for."""

import pytest
import threestudio
import torch

from benchmarks.baselines import register
from jointdreamer.testing.cameras import camera_ring
from jointdreamer.testing.prompts import RandomPrompts

LAMBDA = 0.7


@pytest.fixture
def distil(sd_folder, mv_folder, monkeypatch):
    """Runs a guidance on one object; what was distilled, the model's estimate, the guidance."""
    register()

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
        kept = {}

        def keep(owner, name, what):
            function = getattr(owner, name)

            def keeping(*args):
                result = function(*args)
                kept[name] = what(args, result)
                return result

            monkeypatch.setattr(owner, name, keeping)

        keep(threestudio.find("jsd-guidance"), "_gradient", lambda args, _: args[1])
        if hasattr(guidance.energy, "predict"):
            keep(guidance.energy, "predict", lambda _, x_mv: x_mv.flatten(0, 1))
        torch.manual_seed(3)
        rgb = torch.rand(4, 16, 16, 3).requires_grad_()
        out = guidance(rgb, RandomPrompts(), **camera_ring(1, 4))
        monkeypatch.undo()
        assert torch.isfinite(out["loss_sds"])
        return kept["_gradient"], kept.get("predict"), guidance

    return run


def parts(distilled, guidance):
    """w, sqrt(abar), sigma and x."""
    schedule, like = guidance.prior.schedule, distilled.x_t
    root, sigma = schedule.alpha_bar(distilled.t, like).sqrt(), schedule.sigma(distilled.t, like)
    return sigma**2, root, sigma, (distilled.x_t - sigma * distilled.eps) / root


def close(found, expected):
    return (found - expected).norm() < 1e-4 * expected.norm()


def test_weighted_sum_adds_the_sds_loss_of_the_multi_view_model(distil):
    distilled, x_mv, guidance = distil()
    w, root, sigma, x = parts(distilled, guidance)
    eps_mv = (distilled.x_t - root * x_mv) / sigma
    expected = w * (distilled.eps_hat - distilled.eps) + LAMBDA * w * (eps_mv - distilled.eps)
    assert close(distilled.grad, expected)
    sds, *_ = distil(energy_type="jsd-zero-energy", energy={}, energy_weight=0.0)
    assert torch.equal(sds.x_t, distilled.x_t)
    assert close(distilled.grad - sds.grad, LAMBDA * w * (eps_mv - distilled.eps))


def test_weighted_sum_can_add_mvdreams_reconstruction_loss(distil):
    distilled, x_mv, guidance = distil(loss="reconstruction")
    w, root, sigma, x = parts(distilled, guidance)
    assert close(distilled.grad, w * (distilled.eps_hat - distilled.eps) + LAMBDA * (x - x_mv))


def test_pull_and_drift_are_the_two_terms_of_jsd(distil, mv_folder):
    energy = {"pretrained_model_name_or_path": str(mv_folder), "noise": "shared"}
    energy |= {"guidance_scale": 3.0, "recon_std_rescale": 0.5}
    block = {"energy_type": "jsd-multiview-energy", "energy": energy}
    (jsd, *_), (drift, *_) = distil(**block), distil(loss="drift")
    pull, x_mv, guidance = distil(**block, denoised_from="render")
    sds, *_ = distil(energy_type="jsd-zero-energy", energy={}, energy_weight=0.0)
    w, root, sigma, x = parts(pull, guidance)
    assert close(pull.grad - sds.grad, w * 2 * LAMBDA * sigma / root * (x - x_mv))
    assert close(pull.grad + drift.grad - sds.grad, jsd.grad)


@pytest.mark.parametrize("loss", ["score", "reconstruction"])
def test_multiview_alone_leaves_the_2d_prior_out(distil, loss):
    distilled, x_mv, guidance = distil("multiview-distillation-guidance", loss)
    w, root, sigma, x = parts(distilled, guidance)
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
