"""How far a run is and what it takes, as `metrics.json` in its folder."""

import json
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from threestudio_jointdreamer.files import replacing

FILE = "metrics.json"
EVERY = 2.0  # seconds between two writes, at least
GIB = 2**30
BEFORE = {"step": None, "timed_steps": 0, "timed_seconds": 0.0, "seconds": 0.0}
PEAKS = ("peak_host_gib", "peak_gpu_gib")


class RunMetrics(Callback):
    """Writes `metrics.json` now and then, and at the end.

    `state` is running, done (trained and tested), failed or interrupted; `seconds` count from when
    everything is loaded; `steps_per_second` leaves out validation and each session's first step.

    Args:
        folder: the run's (`trial_dir`).
        resumed: whether what earlier sessions of this run have measured counts, too.
    """

    def __init__(self, folder: str | Path, resumed: bool = False) -> None:
        self._path = Path(folder) / FILE
        self._begin = self._written = time.perf_counter()
        self._first_step_end: float | None = None
        self._pause_begin = self._paused = 0.0
        self._earlier = {**BEFORE, **dict.fromkeys(PEAKS)}
        if resumed and self._path.is_file():
            self._earlier |= json.loads(self._path.read_text(encoding="utf-8"))
        started = datetime.now().isoformat(timespec="seconds")
        self._values: dict[str, Any] = {**self._earlier, "state": "running", "started": started}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._write(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._values["step"] = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        now, values, step = time.perf_counter(), self._values, trainer.global_step
        if self._first_step_end is None:
            self._first_step_end, self._paused = now, 0.0
        elif step > values["step"]:  # and not a part of an accumulated gradient
            timed = now - self._first_step_end - self._paused
            values["timed_steps"] += step - values["step"]
            values["timed_seconds"] = self._earlier["timed_seconds"] + timed
        values["step"] = step
        if now - self._written > EVERY:
            with suppress(OSError):  # the run goes on; its end tells
                self._write(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause_begin = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._paused += time.perf_counter() - self._pause_begin

    def leave_out(self, seconds: float) -> None:
        """The training waited so long, and not for itself."""
        self._paused += seconds

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        interrupted = isinstance(exception, KeyboardInterrupt | SystemExit)  # SIGTERM: the latter
        self._values["state"] = "interrupted" if interrupted else "failed"
        with suppress(OSError):  # the exception is what matters
            self._write(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "test":
            self._values["state"] = "done"
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        self._written = time.perf_counter()
        values, peaks = self._values, [peak_host_bytes(), None]
        values["device"] = "cpu"
        if trainer.strategy.root_device.type == "cuda":
            values["device"] = torch.cuda.get_device_name()
            peaks[1] = torch.cuda.max_memory_allocated()
        for name, peak in zip(PEAKS, peaks, strict=True):
            known = [self._earlier[name], None if peak is None else round(peak / GIB, 3)]
            values[name] = max((value for value in known if value is not None), default=None)
        values["seconds"] = round(self._earlier["seconds"] + self._written - self._begin, 2)
        steps, seconds = values["timed_steps"], values["timed_seconds"]
        values["steps_per_second"] = float(f"{steps / seconds:.4g}") if seconds else None
        if trainer.is_global_zero:
            with replacing(self._path) as new:
                new.write_text(json.dumps(values, indent=1), encoding="utf-8")


def peak_host_bytes() -> int | None:
    """Of this process; None on Windows.

    Linux's getrusage counts what the parent had when it started this process, too.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    with suppress(ImportError):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return None
