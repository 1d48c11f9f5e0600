"""What a run of a sweep has reached and used, measured from inside its process.

Imports nothing of this package, as all that a launcher imports.
"""

import resource
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

GIB = 2**30


class Meter:
    """What an attempt at a run has reached and used so far."""

    def __init__(self, at_once: int) -> None:
        self._begin = time.perf_counter()
        self._first_end: float | None = None
        self._pause_begin = 0.0
        self._paused = 0.0
        self.values: dict[str, Any] = {
            "state": "running",
            "started": datetime.now().isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "device": "cpu",
            "at_once": at_once,
            "together": 1,  # runs in this process
            "seconds": 0.0,
            "step": None,  # of the whole run
            "timed_steps": 0,  # all but this attempt's first, which pays for the start
            "timed_seconds": 0.0,  # without validation
            "peak_host_gib": 0.0,
            "peak_gpu_gib": None,
        }

    def step(self, step: int) -> None:
        now = time.perf_counter()
        if self._first_end is None:
            self._first_end, self._paused = now, 0.0
        elif step > self.values["step"]:  # and not a part of an accumulated gradient
            self.values["timed_steps"] += step - self.values["step"]
            self.values["timed_seconds"] = now - self._first_end - self._paused
        self.values["step"] = step

    def pause(self) -> None:
        self._pause_begin = time.perf_counter()

    def go_on(self) -> None:
        self._paused += time.perf_counter() - self._pause_begin

    def read(self) -> dict[str, Any]:
        self.values["seconds"] = round(time.perf_counter() - self._begin, 2)
        self.values["peak_host_gib"] = round(peak_host_bytes() / GIB, 3)
        torch = sys.modules.get("torch")
        if hasattr(torch, "cuda") and torch.cuda.is_initialized():
            cuda = torch.cuda
            peaks = [cuda.max_memory_allocated(index) for index in range(cuda.device_count())]
            self.values["peak_gpu_gib"] = round(max(peaks) / GIB, 3)
            self.values["device"] = cuda.get_device_name()
        return self.values


def observe_training(find_meter: Callable[[], Meter], attend: Callable[[Any], None]) -> None:
    """From now on every `Trainer.fit` of this process is timed by the meter that is found then.

    Args:
        attend: called with the system when its training begins.
    """
    import pytorch_lightning as pl
    import torch  # noqa: F401  (which the meter asks then)

    fit = pl.Trainer.fit

    class Steps(pl.Callback):
        def __init__(self) -> None:
            self.meter = find_meter()

        def on_train_start(self, trainer, pl_module) -> None:
            self.meter.values["step"] = trainer.global_step
            attend(pl_module)

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            self.meter.step(trainer.global_step)

        def on_validation_start(self, trainer, pl_module) -> None:
            self.meter.pause()

        def on_validation_end(self, trainer, pl_module) -> None:
            self.meter.go_on()

    def observed(trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        trainer.callbacks.append(Steps())
        fit(trainer, *args, **kwargs)

    pl.Trainer.fit = observed


def peak_host_bytes() -> int:
    """Of this process, without those it started.

    Linux's getrusage counts what the parent had when it started this process; /proc does not.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
