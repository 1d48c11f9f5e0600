"""The Lightning module: it learns what can be learnt, and its metrics mean what they say."""

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from jointdreamer.pair_training.pair_training import PairTraining, _half_denoised, _pictures
from jointdreamer.pair_training.pairs import JANUS, KINDS, OTHER, SAME
from jointdreamer.testing.cameras import camera_ring
from jointdreamer.testing.random_classifiers import IMAGE_SIZE, random_classifier
from jointdreamer.tinyworld.training import TrainingPlan

N_VIEW, STEPS = 4, 120


def striped_objects(n, seed):
    """Objects of one bright colour, with a dark quarter that tells the camera's azimuth."""
    colors = torch.randint(80, 256, (n, 1, 3, 1, 1), generator=torch.Generator().manual_seed(seed))
    images = colors.expand(n, N_VIEW, 3, IMAGE_SIZE, IMAGE_SIZE).to(torch.uint8).clone()
    half = IMAGE_SIZE // 2
    for view, (row, column) in enumerate([(0, 0), (0, half), (half, half), (half, 0)]):
        images[:, view, :, row : row + half, column : column + half] = 0
    c2w = camera_ring(1, N_VIEW)["c2w"]
    return [{"images": group, "c2w": c2w} for group in images]


def loader(n, seed, shuffle=False):
    return DataLoader(striped_objects(n, seed), batch_size=8, shuffle=shuffle)


def trainer(**options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    return pl.Trainer(accelerator="cpu", enable_model_summary=False, **quiet | options)


def test_the_loss_falls_and_held_out_objects_and_poses_are_recognised():
    pl.seed_everything(0, verbose=False)
    classifier = random_classifier(gain=1.0, scales=[1.0], hidden_dim=64).train()
    module = PairTraining(classifier, TrainingPlan(steps=STEPS, lr=5e-3, warmup=10))
    every = {"val_check_interval": STEPS // 5, "check_val_every_n_epoch": None}
    fit = trainer(max_steps=STEPS, max_epochs=-1, **every)
    fit.fit(module, loader(64, 0, shuffle=True), loader(16, 1))
    first, last = module.history[0], module.history[-1]
    assert last["step"] == STEPS
    assert last["training_loss"] < 0.9 * first["training_loss"]
    assert last["roc_auc_other_object"] > 0.85 and last["roc_auc_wrong_pose"] > 0.6
    assert last["accuracy"] > 0.6


def test_metrics_of_answers_that_know_objects_but_no_poses(monkeypatch):
    def answers(self, pairs):
        return torch.where(pairs.kind == OTHER, -20.0, 20.0), (pairs.kind == SAME).float()

    monkeypatch.setattr(PairTraining, "_logits_and_labels", answers)
    module = PairTraining(random_classifier(), TrainingPlan(steps=1))
    trainer().validate(module, loader(24, 0), verbose=False)
    (metrics,) = module.history
    assert metrics["right_on_same"] == metrics["right_on_other_object"] == 1.0
    assert metrics["right_on_wrong_pose"] == metrics[f"right_on_{KINDS[JANUS]}"] == 0.0
    assert metrics["roc_auc_other_object"] == 1.0 and metrics["roc_auc_wrong_pose"] == 0.5
    wrong = 1 - metrics["accuracy"]
    assert 0.25 < wrong < 0.4  # two thirds of the half that do not belong together
    assert metrics["calibration_error"] == pytest.approx(wrong, abs=1e-4)
    assert metrics["loss"] == pytest.approx(20 * wrong, rel=1e-3)


def test_held_out_pairs_are_the_same_in_every_validation():
    module = PairTraining(random_classifier(), TrainingPlan(steps=1))
    for _ in range(2):
        trainer().validate(module, loader(16, 0), verbose=False)
    first, second = module.history
    assert first == second


def test_poses_are_exact_in_mixed_precision():
    module = PairTraining(random_classifier(), TrainingPlan(steps=1))
    (batch,) = DataLoader(striped_objects(4, 0), batch_size=4)
    draws = (torch.Generator().manual_seed(0) for _ in range(2))
    exact = module._pairs(_pictures(batch), batch, next(draws))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = module._pairs(_pictures(batch), batch, next(draws))
    assert torch.equal(mixed.pose, exact.pose) and torch.equal(mixed.kind, exact.kind)
    assert mixed.first.dtype == torch.float32


def test_half_of_the_objects_are_shown_denoised_and_their_metrics_are_apart():
    (batch,) = DataLoader(striped_objects(64, 0), batch_size=64)
    shown = _half_denoised(batch | {"denoised_images": torch.zeros_like(batch["images"])})
    blank = (shown["images"] == 0).flatten(1).all(dim=1)
    assert 16 < blank.sum() < 48
    assert torch.equal(shown["images"][~blank], batch["images"][~blank])

    rows = striped_objects(16, 0)
    denoised = [row | {"denoised_images": torch.zeros_like(row["images"])} for row in rows]
    module = PairTraining(random_classifier(gain=3.0), TrainingPlan(steps=1))
    trainer().validate(module, DataLoader(denoised, batch_size=8), verbose=False)
    (metrics,) = module.history
    assert metrics["denoised_roc_auc"] != metrics["roc_auc"]
    trainer().validate(module, loader(16, 0), verbose=False)
    assert "denoised_roc_auc" not in module.history[-1]
