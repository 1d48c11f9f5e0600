"""Training's progress: one bar with the time left, or a line now and then where there is no one."""

import time

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_LOOK_EVERY = 10  # steps; to read the loss is to wait for the device


class StepsBar(pl.Callback):
    """Shows steps, loss and the time left; held-out metrics as they come.

    Args:
        name: what is trained.
        console: where to; standard error by default.
    """

    def __init__(self, name: str, console: Console | None = None) -> None:
        self.name = name
        self.console = console or Console(stderr=True)
        self.bar: Progress | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.first, self.started = trainer.global_step, time.perf_counter()
        if not trainer.is_global_zero:
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
        )
        self.bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.task = self.bar.add_task(
            self.name, total=trainer.max_steps, completed=self.first, loss=float("nan")
        )
        self.bar.start()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        step = trainer.global_step
        if self.bar is None or step % _LOOK_EVERY and step < trainer.max_steps:
            return
        self.bar.update(self.task, completed=step, loss=float(outputs["loss"]))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.bar is None or trainer.sanity_checking:
            return
        step, last = trainer.global_step, pl_module.history[-1]
        left = (time.perf_counter() - self.started) / max(1, step - self.first)
        left *= trainer.max_steps - step
        self.console.print(
            f"{self.name} {step}/{trainer.max_steps}: "
            f"training loss {last.get('training_loss', float('nan')):.4f}, held-out objects: "
            f"accuracy {last['accuracy']:.3f}, ROC-AUC {last['roc_auc']:.3f}, {left:.0f} s left",
            highlight=False,
            soft_wrap=True,
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer, pl_module, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
