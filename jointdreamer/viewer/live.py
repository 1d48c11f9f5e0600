"""Makes what a page asks for: between the steps of a training, or of a finished run."""

import signal
import time
from collections.abc import Callable
from math import radians
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn
from threestudio_jointdreamer.files import replacing

from ..runs import CONFIG, Run
from .page import Page
from .rendering import Viewpoint, render

NUMBERS = ("guidance_scale", "energy_weight")  # s and λ, schedules of jsd-guidance
EVERY = 2.0  # seconds between two looks at the run's files, while somebody looks
POLL = 0.1  # seconds
PIXELS = 384


def open_page(port: int, cfg: DictConfig, trains: bool) -> Page:
    """The page of a run with this config; says where it is. Raises as `Page`."""
    distance = OmegaConf.select(cfg, "data.eval_camera_distance", default=2.75)
    fovy = radians(OmegaConf.select(cfg, "data.eval_fovy_deg", default=40.0))
    view = Viewpoint((distance, 0.0, distance / 4), (0.0, 0.0, 0.0), (0.0, 0.0, 1.0), fovy, 1.0)
    title = OmegaConf.select(cfg, "system.prompt_processor.prompt") or cfg.get("name")
    page = Page(port, f"**{title}**", trains, view, PIXELS)
    rank_zero_info(f"Live view: {page.address}")
    return page


class LiveView(Callback):
    """Pictures between two steps of the training, pauses, the end, and other numbers.

    A run that is only looked at is, to the bit, the run that it would be without.

    Args:
        page, folder: a `Page`, and the run's folder.
        left_out: is told for how many seconds the training waited.
        ending: whether the run is asked to end.
    """

    def __init__(self, page: Any, folder: str | Path, left_out: Any = float, ending: Any = bool):
        self._page, self._run = page, Run(Path(folder))
        self._left_out, self._ending = left_out, ending
        self._looked = -EVERY
        self._shown: Path | None = None
        self._failed, self._began = "", False

    def serve(self, system: Any, status: str, save_logs: Callable[[], Any] = bool) -> None:
        """Makes what is asked for now, after `save_logs()`; nothing if nobody looks."""
        page, step = self._page, system.true_global_step
        for client, view, size in page.requests.due(step, page.size):
            begin = time.perf_counter()
            try:
                page.send(client, render(system, view, size, page.image))
                self._failed = ""
            except Exception as error:  # the run is worth more than a look at it
                self._failed = f" · no picture: {' '.join(str(error).split())[:200]}"
            page.requests.drawn(client, view, size, step, time.perf_counter() - begin)
        if len(page.requests):
            page.say(status + self._failed)
            if time.monotonic() - self._looked > EVERY:
                save_logs()
                self._show_files()
                self._looked = time.monotonic()

    def _show_files(self) -> None:
        try:
            self._page.show_curves(self._run.metrics())
            newest = self._run.newest("train.png")
        except FileNotFoundError:  # not yet
            return
        if self._shown != newest:
            self._page.show_guidance(newest)
            self._shown = newest

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, value in _numbers(pl_module).items():
            if trainer.world_size == 1:  # other devices would not know
                self._page.add_number(name, value)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        # the step before is complete here, with all that it leaves; the first has told no part yet
        page, began = self._page, self._began
        self._began = True
        if not began or not (len(page.requests) or page.paused or page.stopped):
            return
        begin = time.perf_counter()
        if page.paused:
            rank_zero_info("Paused by the live view; Ctrl-C ends the run with a checkpoint.")
        while True:
            while not page.changes.empty():
                self._hold(pl_module, *page.changes.get())
            self._serve(trainer, pl_module)
            if not page.paused or self._ending():
                break
            page.requests.wait(POLL)
        self._left_out(time.perf_counter() - begin)
        if page.stopped:
            page.stopped = False
            signal.raise_signal(signal.SIGINT)

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._serve(trainer, pl_module)

    def _serve(self, trainer: Trainer, system: Any) -> None:
        stage = "testing" if trainer.testing else "paused" if self._page.paused else "training"
        status = f"Step {system.true_global_step} of {trainer.max_steps} · {stage}"
        status += "".join(f" · {name} {value:g}" for name, value in _numbers(system).items())
        self.serve(system, status, lambda: [log.save() for log in trainer.loggers])

    def _hold(self, system: Any, name: str, value: float) -> None:
        """Holds a number of the guidance from this step on; the run's config then says so, too."""
        step, key = system.true_global_step, f"system.guidance.{name}"
        schedules, path = system.guidance.schedules, self._run.folder / CONFIG
        try:
            schedules[name] = schedules[name].held_from(step, value)
        except ValueError as error:
            rank_zero_warn(f"Not changed by the live view: {error}")
            return
        config = OmegaConf.load(path)
        OmegaConf.update(config, key, schedules[name].value)
        with replacing(path) as new:
            OmegaConf.save(config, new)
        rank_zero_info(f"Changed by the live view at step {step}: {key}={schedules[name].value}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "test":
            self._page.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._page.close()


def _numbers(system: Any) -> dict[str, float]:
    """Those of `NUMBERS` that the system's guidance has, at this step."""
    schedules = getattr(getattr(system, "guidance", None), "schedules", {})
    now = (system.true_current_epoch, system.true_global_step)
    return {name: schedules[name](*now) for name in NUMBERS if name in schedules}
