"""What a run says about how far it is."""

import io
from contextlib import redirect_stdout

import pytorch_lightning as pl
import torch

from jointdreamer import progress
from jointdreamer.host.progress import StepBar, progress_callback


class Plain(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, index):
        loss = self.layer(batch).sum()
        self.log("loss", loss * 0 + 0.12345678, prog_bar=True)
        return loss

    def test_step(self, batch, index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(folder, steps, resumed=False, terminal=False):
    """What a run writes to standard output."""
    with redirect_stdout(io.StringIO()) as output:
        output.isatty = lambda: terminal
        _train(folder, steps, resumed)
    return output.getvalue()


def _train(folder, steps, resumed):
    callback = progress_callback()
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=isinstance(callback, StepBar),
        enable_model_summary=False,
    )
    loader = torch.utils.data.DataLoader(torch.zeros(100, 1))
    trainer.fit(Plain(), loader, ckpt_path=folder / "last.ckpt" if resumed else None)
    trainer.save_checkpoint(folder / "last.ckpt")
    trainer.test(Plain(), torch.utils.data.DataLoader(torch.zeros(3, 1)), verbose=False)


def test_in_a_log_there_is_a_line_for_each_tenth_of_training_and_testing(tmp_path):
    output = train(tmp_path, 40)
    lines = output.splitlines()
    steps = [line.split()[1] for line in lines if line.startswith("Training: ")]
    assert steps == [f"{4 * i}/40" for i in range(1, 11)]
    assert lines[0].startswith("Training: 4/40 loss=0.1235, about 0:00:0")
    tested = [line.split(", about")[0] for line in lines if line.startswith("Testing: ")]
    assert tested == ["Testing: 1/3", "Testing: 2/3", "Testing: 3/3"]
    assert not set(output) & set("\r\x1b\x08")


def test_a_resumed_run_counts_from_where_it_was(tmp_path):
    train(tmp_path, 10)
    lines = train(tmp_path, 40, resumed=True).splitlines()
    steps = [line.split()[1] for line in lines if line.startswith("Training: ")]
    assert steps == [f"{4 * i}/40" for i in range(3, 11)]


def test_on_a_terminal_lightnings_bar_counts_global_steps(tmp_path):
    train(tmp_path, 10)
    shown = train(tmp_path, 40, resumed=True, terminal=True).split("\r")
    shown = [line for line in shown if line.startswith("Training: ")]
    assert "| 10/40 [" in shown[1] and "| 11/40 [" in "".join(shown)
    assert "Training: 100%" in shown[-1] and "| 40/40 [" in shown[-1] and "loss=0.123" in shown[-1]


def test_the_time_left_does_not_count_what_the_first_step_starts_up(monkeypatch):
    now, output = 0.0, io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    advance = progress.log_lines("Training", 100, done=60, stream=output)
    for count, now in ((1, 500.0), (9, 518.0), (10, 538.0), (20, 578.0)):  # noqa: B007
        advance(count)
    assert output.getvalue().splitlines() == [
        "Training: 70/100, about 0:01:00 left",
        "Training: 80/100, about 0:00:40 left",
        "Training: 100/100, about 0:00:00 left",
    ]
