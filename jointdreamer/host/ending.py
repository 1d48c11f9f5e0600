"""How a run ends before its time: SIGTERM and Ctrl-C, and too little memory."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from .checkpoints import checkpoints_in
from .resume import CHECKPOINTS

SIGNALS = (signal.SIGINT, signal.SIGTERM)
asked = SimpleNamespace(signal=None)  # of this process: the signal after which its runs end
TRAIN = ("data.batch_size", "data.width", "data.height")
KEYS = {  # what takes memory, by the stage of a run
    "start": ("system.guidance.pretrained_model_name_or_path", *TRAIN),
    "train": TRAIN,
    "validate": ("data.eval_width", "data.eval_height"),
    "predict": ("system.geometry.isosurface_resolution",),
}
LOW_MEMORY = {"system.guidance.memory": "low"}  # takes more time, as do small chunks:
SMALL_CHUNKS = {"system.guidance.encode_chunk": 1}
SMALL_PARTS = {"system.render_chunk": 8192}  # of what one renderer draws
KEYS |= {"sanity_check": KEYS["validate"], "test": KEYS["validate"]}


def status() -> int:
    """The exit status of a process that a signal asked to end; 0 without."""
    return 0 if asked.signal is None else 128 + asked.signal


class Ending(Callback):
    """Saves a checkpoint when training ends, be it after a signal, and knows where a run failed.

    A signal ends training after its step, with a checkpoint, and all else at once; in both cases
    with the signal's exit status. A second one ends the process.
    """

    def __init__(self) -> None:
        self._is_main = threading.current_thread() is threading.main_thread()  # has the signals
        self._trains = self._saved = False
        self.began = False
        self._failed_at = ("start", "before the first step")

    @contextmanager
    def listening(self) -> Iterator["Ending"]:
        if not self._is_main:
            self._end_if_asked()
            yield self
            return
        asked.signal = None
        before = {number: signal.getsignal(number) for number in SIGNALS}
        self._take_signals()
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take_signals(self) -> None:
        if self._is_main:
            for number in SIGNALS:
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        asked.signal = number
        for again in SIGNALS:
            signal.signal(again, signal.SIG_DFL)
        if not self._trains:
            self._end_if_asked()
        if rank_zero_only.rank == 0:  # and no print, which may be at work
            os.write(2, b"Ending after this step; once more to end at once.\n")

    def _end_if_asked(self, *args: Any) -> None:
        if asked.signal is not None:
            raise SystemExit(status())

    on_test_batch_start = on_predict_batch_start = _end_if_asked

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trains = self.began = True
        self._take_signals()  # Lightning has a handler of its own, which saves nothing

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        is_asked = trainer.strategy.reduce_boolean_decision(asked.signal is not None, all=False)
        if is_asked and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            trainer.save_checkpoint(_last(trainer))
            self._saved = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._saved:  # not before here, where the step's logs and validation are complete
            raise SystemExit(status() or 128 + signal.SIGTERM)  # the latter: another device's

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        saved = checkpoints_in(_last(trainer).parent)
        if trainer.global_step not in (step for step, *_ in saved):
            trainer.save_checkpoint(_last(trainer))  # the steps since the last one that was due
        self._trains = False
        self._end_if_asked()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if trainer.state.stage is not None and (self.began or not trainer.training):
            self._failed_at = (trainer.state.stage.value, f"at step {pl_module.true_global_step}")

    def out_of_memory(self, cfg: DictConfig) -> str:
        """What is said of a run that took more memory than there is."""
        stage, when = self._failed_at
        now = ((key, OmegaConf.select(cfg, key)) for key in KEYS[stage])
        keys = ", ".join(f"{key}={value}" for key, value in now if value is not None)
        less = LOW_MEMORY
        if OmegaConf.select(cfg, "system.guidance.memory") == "low":
            in_parts = OmegaConf.select(cfg, "system.renderer_type") == "nerf-volume-renderer"
            less = SMALL_CHUNKS | (SMALL_PARTS if in_parts else {})
        saving = [
            f"{key}={value}"
            for key, value in less.items()
            if stage in ("start", "train")
            and OmegaConf.select(cfg, "system.guidance_type") == "jsd-guidance"
            and OmegaConf.select(cfg, key) in (None, "normal", 0)
        ]
        remedy = f"set {' '.join(saving)}, or choose" if saving else "choose"
        told = f"out of memory {when}: {remedy} smaller {keys}."
        folder = OmegaConf.select(cfg, "trial_dir")
        saved = checkpoints_in(Path(folder, CHECKPOINTS)) if folder and self.began else []
        return f"{told} The last checkpoint is {saved[0][-1]}." if saved else told


def _last(trainer: Trainer) -> Path:
    return Path(trainer.checkpoint_callback.dirpath, "last.ckpt")
