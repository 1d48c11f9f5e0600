"""Progress of a run and the time it still takes: a bar on a terminal, plain lines elsewhere."""

import math
import sys
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.trainer.states import TrainerFn
from tqdm import tqdm


def duration(seconds: float) -> str:
    """Seconds as people say them.

    Example:
        >>> duration(2.31), duration(187), duration(7500)
        ('2.3 s', '3 min 07 s', '2 h 05 min')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Meter:
    """How fast steps go by and how long the rest takes, without the first step's start-up cost."""

    def __init__(
        self,
        first: int,
        total: int | None,
        unit: str = "step",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.first, self.total, self.done, self.unit = first, total, first, unit
        self._clock = clock
        self._begin = clock()
        self._after_first: float | None = None

    def step(self, done: int) -> None:
        """Notes that `done` steps of the whole run are done."""
        self.done = done
        if self._after_first is None:
            self._after_first = self._clock()

    @property
    def elapsed(self) -> float:
        return self._clock() - self._begin

    @property
    def seconds_per_step(self) -> float | None:
        timed = self.done - self.first - 1
        return (self._clock() - self._after_first) / timed if timed > 0 else None

    @property
    def seconds_left(self) -> float | None:
        if self.total is None or self.seconds_per_step is None:
            return None
        return self.seconds_per_step * (self.total - self.done)

    def line(self) -> str:
        """For example `step 300/1000 (30 %), 12 s gone, 28 s left, 25.0 steps/s`."""
        if self.total is None:
            parts = [f"{self.unit} {self.done}"]
        else:
            percent = 100 * self.done // max(self.total, 1)
            parts = [f"{self.unit} {self.done}/{self.total} ({percent} %)"]
        parts.append(f"{duration(self.elapsed)} gone")
        if self.seconds_left is not None:
            parts.append(f"{duration(self.seconds_left)} left")
        if self.seconds_per_step:
            parts.append(f"{1 / self.seconds_per_step:.3g} {self.unit}s/s")
        return ", ".join(parts)


class RunProgress(ProgressBar):
    """Shows the global step against `trainer.max_steps`, so also a resumed run's bar is right.

    Args:
        stream: where to write; standard output by default. A tqdm bar if it is a terminal, else a
            line for each tenth of the way.
    """

    def __init__(self, stream: Any = None) -> None:
        super().__init__()
        self._stream = stream
        self._enabled = True
        self._name = ""
        self._meter: Meter | None = None
        self._bar: tqdm | None = None
        self._next_line = 0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        if self._enabled:
            tqdm.write(" ".join(map(str, args)), file=self._stream or sys.stdout)

    def _start(self, name: str, first: int, total: int | None, unit: str) -> None:
        self._name, self._meter = name, Meter(first, total, unit)
        self._next_line = first - first % self._line_every + self._line_every
        stream = self._stream or sys.stdout
        if self._enabled and stream.isatty():
            self._bar = tqdm(
                desc=name, total=total, initial=first, unit=unit, file=stream, dynamic_ncols=True
            )

    def _advance(self, done: int, metrics: dict[str, Any] | None = None) -> None:
        self._meter.step(done)
        shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in (metrics or {}).items()}
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(done - self._bar.n)
        elif done >= self._next_line or done == self._meter.total:
            self._next_line = done - done % self._line_every + self._line_every
            rest = "".join(f", {key} {value}" for key, value in shown.items())
            self.print(f"{self._name}: {self._meter.line()}{rest}")

    @property
    def _line_every(self) -> int:
        return 100 if self._meter.total is None else max(1, math.ceil(self._meter.total / 10))

    def _finish(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        total = trainer.max_steps if trainer.max_steps >= 0 else None
        self._start("train", trainer.global_step, total, "step")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        metrics = self.get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)  # the loggers' version
        self._advance(trainer.global_step, metrics)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._finish()

    def on_exception(self, trainer, pl_module, exception: BaseException) -> None:
        self._finish()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:  # and not during training
            self._start("validate", 0, sum(trainer.num_val_batches), "view")

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, *args) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._advance(batch_idx + 1)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._finish()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start("test", 0, sum(trainer.num_test_batches), "view")

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, *args) -> None:
        self._advance(batch_idx + 1)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._finish()

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start("export", 0, sum(trainer.num_predict_batches), "view")

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, *args) -> None:
        self._advance(batch_idx + 1)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._finish()
