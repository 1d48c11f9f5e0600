"""What a run writes about itself while Lightning trains and tests it."""

import json
import time

import pytest
import pytorch_lightning as pl
import torch

from jointdreamer.host import metrics
from jointdreamer.host.metrics import FILE, RunMetrics, peak_host_bytes


class Plain(pl.LightningModule):
    """A step takes 0.05 seconds, validation 0.3, and step `fail_at` fails as it is told."""

    def __init__(self, fail_at=None, error=RuntimeError):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.fail_at, self.error, self.seen = fail_at, error, []

    def training_step(self, batch, index):
        if self.global_step == self.fail_at:
            raise self.error("no")
        time.sleep(0.05)
        return self.layer(batch).sum()

    def validation_step(self, batch, index):
        time.sleep(0.3)

    def test_step(self, batch, index):
        self.seen.append(json.loads(self.path.read_text())["state"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(folder, steps, module=None, resumed=False):
    """A run as the launcher makes it; what it wrote."""
    module = module or Plain()
    module.path = folder / FILE
    loader = torch.utils.data.DataLoader(torch.zeros(steps, 1))
    one = torch.utils.data.DataLoader(torch.zeros(1, 1))
    checkpoint = folder / "last.ckpt"
    trainer = pl.Trainer(
        max_steps=steps,
        val_check_interval=2,
        accelerator="cpu",
        callbacks=[RunMetrics(folder, resumed)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    try:
        trainer.fit(module, loader, one, ckpt_path=checkpoint if resumed else None)
        trainer.save_checkpoint(checkpoint)
        trainer.test(module, one, verbose=False)
    finally:
        written = json.loads(module.path.read_text())
    return written


def test_steps_are_timed_without_the_first_and_without_validation(tmp_path):
    ballast = bytearray(b"1" * (100 * 2**20))
    module = Plain()
    found = train(tmp_path, 5, module)
    assert module.seen == ["running"]  # it is done when it is tested, too
    assert (found["state"], found["step"], found["timed_steps"]) == ("done", 5, 4)
    assert 12 < found["steps_per_second"] <= 20
    assert found["seconds"] > 5 * 0.05 + 2 * 0.3
    assert found["device"] == "cpu" and found["peak_gpu_gib"] is None
    assert len(ballast) < 2**30 * found["peak_host_gib"] <= peak_host_bytes() + 2**20
    assert found["started"].startswith("20")


def test_a_resumed_run_adds_to_what_was_measured_before(tmp_path):
    first = train(tmp_path, 4)
    both = train(tmp_path, 8, resumed=True)
    assert (both["step"], both["timed_steps"]) == (8, 3 + 3)
    assert both["seconds"] > first["seconds"] + 4 * 0.05
    assert 12 < both["steps_per_second"] <= 20
    again = train(tmp_path, 4)  # another run in the same folder
    assert (again["step"], again["timed_steps"]) == (4, 3)


@pytest.mark.parametrize(
    "error, raised, state",
    [(RuntimeError, RuntimeError, "failed"), (KeyboardInterrupt, SystemExit, "interrupted")],
)
def test_what_ends_early_says_how_and_where(tmp_path, error, raised, state):
    with pytest.raises(raised):
        train(tmp_path, 5, Plain(fail_at=3, error=error))
    found = json.loads((tmp_path / FILE).read_text())
    assert (found["state"], found["step"]) == (state, 3)


def test_it_is_written_now_and_then_and_a_full_disk_does_not_end_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "EVERY", 0.12)
    replacing, steps = metrics.replacing, []

    def failing(path):
        steps.append(json.loads(path.read_text())["step"] if path.is_file() else None)
        if len(steps) == 3:
            raise OSError("the disk is full")
        return replacing(path)

    monkeypatch.setattr(metrics, "replacing", failing)
    assert train(tmp_path, 10)["state"] == "done"
    assert 6 < len(steps) < 12
