"""`jointdreamer train-classifier`: writes a classifier, is interrupted and goes on, refuses."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.views_release import write_views_release
from threestudio_jointdreamer.priors.pair_classifier import load_pair_classifier

from jointdreamer.cli import main
from jointdreamer.pair_training.pair_training import PairTraining
from jointdreamer.pair_training.settings import default_settings
from jointdreamer.pair_training.train_classifier import METRICS, train_classifier
from jointdreamer.testing.random_classifiers import IMAGE_SIZE, build_dino, random_classifier

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def ctrl_c():
    """Lightning ignores Ctrl-C after the first one; later tests' children would inherit that."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_views_release(tmp_path_factory.mktemp("data"), 24)


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    return build_dino(tmp_path_factory.mktemp("dino"))


@pytest.fixture(scope="module")
def settings(data, dino):
    return default_settings(
        str(data),
        backbone=str(dino),
        train_blocks=2,
        image_size=IMAGE_SIZE,
        held_out=0.3,
        batch=4,
        steps=10,
        lr=3e-3,
    )


def state_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.training")


@pytest.fixture(scope="module")
def trained(settings, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "classifier"
    metrics = train_classifier(settings, out, accelerator="cpu")
    return out, metrics


def test_the_report_has_settings_metrics_and_history(trained, settings):
    out, metrics = trained
    report = json.loads((out / METRICS).read_text())
    assert report["held_out"] == metrics == report["history"][-1]
    assert metrics["step"] == settings.steps
    assert report["settings"]["backbone"] == settings.backbone
    for name in ("accuracy", "roc_auc", "calibration_error"):
        assert 0 <= metrics[name] <= 1
    assert not state_of(out).exists()


def test_the_energy_s_loader_reads_the_result(trained):
    classifier = load_pair_classifier(str(trained[0]), CPU)
    assert classifier.image_size == IMAGE_SIZE
    images, c2w = torch.rand(2, 3, 40, 40), torch.eye(4).repeat(2, 1, 1)
    c2w[:, 2, 3] = 2.0
    assert classifier(images, images, c2w, c2w).isfinite().all()


def test_the_last_blocks_alone_learn(settings, tmp_path):
    out = tmp_path / "classifier"
    train_classifier(replace(settings, train_blocks=1, steps=2), out, accelerator="cpu")
    after = load_pair_classifier(str(out), CPU).backbone
    before = random_classifier().backbone  # of the seed that build_dino takes
    first, last = (
        list(zip(*(_layers(vit)[i].parameters() for vit in (before, after)), strict=True))
        for i in (0, -1)
    )
    assert all(torch.equal(*pair) for pair in first)
    assert torch.equal(before.embeddings.cls_token, after.embeddings.cls_token)
    assert not any(torch.equal(*pair) for pair in last)


def _layers(vit):
    return vit.encoder.layer if hasattr(vit, "encoder") else vit.layers


def test_a_backbone_that_does_not_learn_is_named_and_not_saved(settings, dino, tmp_path):
    out = tmp_path / "classifier"
    brief = replace(settings, train_blocks=0, steps=2)
    train_classifier(brief, out, accelerator="cpu")
    assert json.loads((out / "head" / "config.json").read_text())["backbone"] == str(dino)
    assert not (out / "backbone").exists()
    backbone = load_pair_classifier(str(out), CPU).backbone
    pairs = zip(backbone.parameters(), random_classifier().backbone.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_an_interrupted_training_goes_on_from_its_checkpoint(settings, tmp_path, monkeypatch):
    out, brief = tmp_path / "classifier", replace(settings, steps=20)
    step, seen = PairTraining.training_step, []

    def interrupted(self, batch, batch_idx):
        if self.global_step == 13:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    def counted(self, batch, batch_idx):
        seen.append(self.global_step)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(PairTraining, "training_step", interrupted)
    with pytest.raises(SystemExit):
        train_classifier(brief, out, accelerator="cpu", save_every=5)
    assert not out.exists() and (state_of(out) / "last.ckpt").exists()
    monkeypatch.setattr(PairTraining, "training_step", counted)

    other = replace(brief, lr=1.0)
    with pytest.raises(ValueError, match="lr=0.003, not 1.0.*--fresh"):
        train_classifier(other, out, accelerator="cpu")
    metrics = train_classifier(brief, out, accelerator="cpu", save_every=5)
    assert seen == list(range(10, 20)) and metrics["step"] == 20
    steps = [entry["step"] for entry in json.loads((out / METRICS).read_text())["history"]]
    assert steps == sorted(set(steps)) and steps[0] < 10 and steps[-1] == 20
    assert not state_of(out).exists()


def test_ctrl_c_is_told_and_has_its_exit_status(data, dino, tmp_path, monkeypatch, capsys):
    def interrupted(self, batch, batch_idx):
        raise KeyboardInterrupt

    monkeypatch.setattr(PairTraining, "training_step", interrupted)
    options = f"--data {data} --backbone {dino} --image-size {IMAGE_SIZE} --train-blocks 1"
    options += f" --held-out 0.3 --batch 4 --workers 0 --accelerator cpu --out {tmp_path / 'out'}"
    assert main(["train-classifier", *options.split()]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_fresh_starts_over(settings, tmp_path):
    out = tmp_path / "classifier"
    state_of(out).mkdir()
    (state_of(out) / "settings.json").write_text('{"lr": 7.0}')
    metrics = train_classifier(replace(settings, steps=2), out, accelerator="cpu", fresh=True)
    assert metrics["step"] == 2 and not state_of(out).exists()


def test_an_existing_result_is_left_alone(data, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("keep")
    assert main(["train-classifier", "--data", str(data), "--out", str(tmp_path)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--data", "nowhere"], "--data"),
        (["--steps", "0"], "--steps 0"),
        (["--batch", "1"], "--batch 1"),
        (["--views", "1"], "--views 1"),
        (["--lr", "-1"], "--lr -1"),
        (["--held-out", "0.5"], "--held-out 0.5"),
        (["--data", "nowhere", "--held-out", "3"], "--held-out 3"),
        (["--image-size", "224"], "--backbone"),
        (["--backbone", "nowhere/at-all/dino.pth"], "--backbone"),
        (["--devices", "0"], "--devices 0"),
    ],
)
def test_a_mistake_is_told_in_one_line_and_leaves_nothing(options, told, tmp_path, capsys):
    defaults = [] if "--backbone" in options or "nowhere" not in options else ["--backbone", "tiny"]
    out = ["--out", str(tmp_path / "out"), "--accelerator", "cpu"]
    assert main(["train-classifier", *options, *defaults, *out]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert told in error[-1] and error[-1].startswith("error:")
    assert list(tmp_path.iterdir()) == []


def test_too_many_blocks_to_train_are_refused(settings, tmp_path):
    with pytest.raises(ValueError, match="--train-blocks 5.* has 2 blocks"):
        train_classifier(replace(settings, train_blocks=5), tmp_path / "out", accelerator="cpu")
