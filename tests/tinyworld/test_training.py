"""Training of the tiny priors: the loop, the stages, and the shipped weights."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from threestudio_jointdreamer.priors.loading import load_prior
from threestudio_jointdreamer.priors.multiview import camera_condition, use_cross_view_attention
from threestudio_jointdreamer.prompts.text_encoder import embed_prompts

from jointdreamer.cli import main
from jointdreamer.tinyworld import stages
from jointdreamer.tinyworld.dataset import four_view_sets, make_pictures
from jointdreamer.tinyworld.models import build_tokenizer
from jointdreamer.tinyworld.sampling import sample
from jointdreamer.tinyworld.training import Trainer, TrainingPlan

SHIPPED = Path(__file__).resolve().parents[2] / "load" / "tiny"
PLAN = TrainingPlan(steps=12, lr=0.05, warmup=2, save_every=4, ema=0.5)


def noisy_regression(state: Path, stop_at: int | None = None) -> tuple[torch.nn.Module, Trainer]:
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 1)
    calls = 0

    def loss():
        nonlocal calls
        calls += 1
        if stop_at is not None and calls > stop_at:
            raise KeyboardInterrupt
        x = torch.randn(8, 3)
        return (layer(x) - x.sum(1, keepdim=True)).square().mean()

    return layer, Trainer(layer, loss, PLAN, state)


@pytest.mark.parametrize("stop_at", [3, 4, 7, 11])
def test_interrupted_training_resumes_to_the_same_weights(tmp_path, stop_at):
    whole, trainer = noisy_regression(tmp_path / "whole")
    trainer.run("whole")
    _, trainer = noisy_regression(tmp_path / "state", stop_at)
    with pytest.raises(KeyboardInterrupt):
        trainer.run("broken")
    resumed, trainer = noisy_regression(tmp_path / "state")
    assert trainer.run("resumed")["steps"] == PLAN.steps
    assert torch.equal(resumed.weight, whole.weight) and torch.equal(resumed.bias, whole.bias)
    assert not (tmp_path / "state").exists()


def test_training_learns_and_leaves_averaged_weights(tmp_path):
    layer, trainer = noisy_regression(tmp_path / "state")
    before = (layer.weight - 1).abs().mean().item()
    trainer.run("learn")
    assert (layer.weight - 1).abs().mean().item() < before
    averages = trainer.average.shadow_params
    assert all(torch.equal(p, a) for p, a in zip(layer.parameters(), averages, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_captured_steps_are_the_plain_ones(tmp_path):
    def trained(captured: bool) -> torch.Tensor:
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 1).cuda()

        def loss():
            x = torch.randn(8, 3, device="cuda")
            return (layer(x) - x.sum(1, keepdim=True)).square().mean()

        Trainer(layer, loss, PLAN, tmp_path / "state", captured).run("learn")
        return layer.weight

    torch.testing.assert_close(trained(True), trained(False))


def test_the_rate_warms_up_and_falls_to_zero():
    plan = TrainingPlan(steps=100, lr=2.0, warmup=10)

    def rate(step):
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=plan.lr)
        return plan.schedule(optimizer, step).get_last_lr()[0] / plan.lr

    assert rate(0) == pytest.approx(0.1)
    assert rate(9) == pytest.approx(1.0, abs=0.03)
    assert rate(55) < rate(20) and rate(100) == 0


def test_a_limit_of_time_shortens_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr("jointdreamer.tinyworld.training.TIMED_STEPS", 5)
    _, trainer = noisy_regression(tmp_path / "state")
    trainer.plan = replace(PLAN, max_seconds=1e-9)
    assert trainer.run("short")["steps"] == 5


def test_training_that_diverges_says_so(tmp_path):
    layer = torch.nn.Linear(1, 1)
    plan = TrainingPlan(steps=60, warmup=1)
    trainer = Trainer(layer, lambda: layer.weight.sum() * torch.nan, plan, tmp_path / "s")
    with pytest.raises(FloatingPointError, match="step 50"):
        trainer.run("nan")


def test_unknown_stage_is_refused(tmp_path):
    with pytest.raises(ValueError, match="stage 'unet' is unknown"):
        stages.train("unet", tmp_path, "cpu")
    with pytest.raises(ValueError, match="--species is of the priors .*, not of vae"):
        stages.train("vae", tmp_path, "cpu", species=["bear"])


def test_a_wrong_stage_is_refused_before_another_one_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stages, "train", None)
    assert main(["tinyworld", "train", "mvdream", "unet", "--root", str(tmp_path)]) == 2
    assert "stage 'unet' is unknown" in capsys.readouterr().err


def test_every_stage_trains_and_writes_loadable_folders(tmp_path):
    for stage in stages.STAGES:
        report = stages.train(stage, tmp_path, "cpu", steps=2, pictures=16, batch=4)
        assert report["steps"] == 2
        assert json.loads((tmp_path / f"training-{stage}.json").read_text())["steps"] == 2
    assert sample(tmp_path, "stable-diffusion", ["a red bear"], steps=2).shape == (1, 1, 3, 64, 64)
    flow = "stable-diffusion-3"
    assert sample(tmp_path, flow, ["a red bear"], steps=2).shape == (1, 1, 3, 64, 64)
    assert sample(tmp_path, "mvdream", ["a red bear"], steps=2).shape == (1, 4, 3, 64, 64)
    scene = sample(tmp_path, "scene-mvdream", ["a red bear and a blue cat"], steps=2)
    assert scene.shape == (1, 4, 3, 96, 96)
    assert not list(tmp_path.glob(".*")), "temporary files were left behind"
    again = tmp_path / "again"
    stages.train("vae", again, "cpu", steps=2, pictures=16, batch=4)
    first, second = (
        AutoencoderKL.from_pretrained(root / "stable-diffusion" / "vae").state_dict()
        for root in (tmp_path, again)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_tokenizer_lower_cases_drops_punctuation_and_marks_unknown_words():
    tokenizer = build_tokenizer()
    assert tokenizer("A red BEAR, wearing a hat!").input_ids == (
        tokenizer("a red bear wearing a hat").input_ids
    )
    assert tokenizer("a red dragon").input_ids.count(tokenizer.unk_token_id) == 1


class TestShippedWeights:
    def test_whole_shipment_is_within_its_budget(self):
        sizes = [f.stat().st_size for f in SHIPPED.rglob("*") if f.is_file()]
        assert sum(sizes) < 60 * 2**20 and max(sizes) < 16 * 2**20

    def test_autoencoder_restores_unseen_creatures_from_latents_of_unit_scale(self):
        vae = AutoencoderKL.from_pretrained(SHIPPED / "stable-diffusion" / "vae").float()
        rgb = make_pictures(16, 99, "cpu", encode=lambda rgb: rgb).images
        with torch.no_grad():
            latents = vae.encode(rgb * 2 - 1).latent_dist.mean
            restored = vae.decode(latents).sample / 2 + 0.5
        psnr = -10 * torch.log10((restored - rgb).square().mean())
        assert psnr > 28
        assert 0.8 < (latents * vae.config.scaling_factor).std() < 1.2

    def test_multi_view_prior_is_a_stock_unet_with_a_camera(self):
        unet = UNet2DConditionModel.from_pretrained(SHIPPED / "mvdream" / "unet")
        assert unet.config.class_embed_type == "projection"
        assert unet.config.projection_class_embeddings_input_dim == 16

    def test_multi_view_prior_denoises_views_of_one_object_better_than_the_2d_prior(self):
        sd, cpu = str(SHIPPED / "stable-diffusion"), torch.device("cpu")
        sets = four_view_sets(8, 97, "cpu", encode=lambda rgb: rgb)
        texts = embed_prompts(sd, sets.captions, cpu).repeat_interleave(4, 0)
        t, error = torch.full((32,), 700), {}
        for name in ("stable-diffusion", "mvdream"):
            prior = load_prior(str(SHIPPED / name), cpu, vae_from=sd)
            camera = None
            if name == "mvdream":
                camera = camera_condition(sets.c2w)
                use_cross_view_attention(prior.unet, 4)
            torch.manual_seed(0)
            with torch.no_grad():
                x = prior.encode(sets.images)
                noise = torch.randn_like(x)
                noisy = prior.schedule.add_noise(x, noise, t)
                predicted = prior.predict_noise(noisy, t, texts, camera)
            error[name] = (predicted - noise).square().mean().item()
        assert error["mvdream"] < 0.8 * error["stable-diffusion"]

    def test_flow_prior_shows_what_the_text_says(self):
        folder, cpu = str(SHIPPED / "stable-diffusion-3"), torch.device("cpu")
        seen = make_pictures(8, 96, "cpu", azimuths=lambda n, _: torch.zeros(n), encode=lambda x: x)
        prior = load_prior(folder, cpu, vae_from=str(SHIPPED / "stable-diffusion"))
        texts, t = embed_prompts(folder, seen.captions, cpu), torch.full((8,), 700)
        error = []
        with torch.no_grad():
            x = prior.encode(seen.images)
            noisy = prior.schedule.add_noise(x, torch.randn_like(x), t)
            for text in (texts, texts.roll(1, dims=0)):
                noise = prior.predict_noise(noisy, t, text, None)
                error.append((prior.schedule.denoise(noisy, noise, t) - x).square().mean())
        assert error[0] < 0.3 * error[1]
