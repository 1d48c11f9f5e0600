"""Progress of a Lightning run: Lightning's bar on a terminal, plain lines in a log."""

import sys
from collections.abc import Callable
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar, TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm

from ..progress import log_lines


class StepBar(TQDMProgressBar):
    """Lightning's bar; in training with the global step against `trainer.max_steps`.

    Lightning itself counts batches of an epoch, and so from 0 when a run is resumed.
    """

    def init_train_tqdm(self) -> Tqdm:
        bar = super().init_train_tqdm()
        bar.set_description("Training", refresh=False)
        bar.total = self.trainer.max_steps if self.trainer.max_steps >= 0 else None
        bar.initial = bar.n = self.trainer.global_step
        bar.refresh()
        return bar

    def on_train_epoch_start(self, *args: Any) -> None:
        pass  # Lightning's would begin again

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, trainer.global_step - 1)


class StepLines(Callback):
    """A line on standard output at each tenth of training and of testing, with the time left."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        self._advance = _lines(trainer, "Training", trainer.max_steps, self._step)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        metrics = trainer.progress_bar_metrics.items()
        note = " ".join(f"{name}={value:.4g}" for name, value in metrics)
        self._advance(trainer.global_step - self._step, note)
        self._step = trainer.global_step

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._advance = _lines(trainer, "Testing", sum(trainer.num_test_batches))

    def on_test_batch_end(self, *args) -> None:
        self._advance()


def _lines(trainer: Trainer, description: str, total: float, done: float = 0) -> Callable:
    """Of the first device's process; the others say nothing."""
    if not trainer.is_global_zero:
        return lambda *args: None
    return log_lines(description, total, done, sys.stdout)


def progress_callback() -> ProgressBar | StepLines:
    """What suits standard output."""
    return StepBar() if sys.stdout.isatty() else StepLines()
