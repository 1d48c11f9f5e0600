"""What a validation, a test or an export writes: made aside, and put in place whole."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from threestudio_jointdreamer.systems.stage_weights import plain

from ..runs import RECORD

EXPORT = ("exporter_type", "exporter", "geometry")
ANGLES = {"azimuth": "azimuth_deg", "elevation": "elevation_deg"}


class WholeOutputs(Callback):
    """Gives the system a hidden folder to save to, whose files then take their names at once.

    Each folder in it gets a record, `RECORD`, of what made it. Whatever was there of that name goes
    before, so that frames and film of one test are never beside those of another.

    Args:
        save_dir: the system's save folder, `save` in the run's.
    """

    def __init__(self, save_dir: str | Path) -> None:
        self._save_dir = Path(save_dir)
        self._aside = self._save_dir.with_name(".save.new")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        pl_module.set_save_dir(str(self._save_dir))
        self._discard(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.set_save_dir(str(self._aside))

    on_test_start = on_predict_start = on_validation_start

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.set_save_dir(str(self._save_dir))
        trainer.strategy.barrier()  # the other processes save, too
        if trainer.is_global_zero and self._aside.is_dir():
            self._put_in_place(trainer, pl_module)
        self._discard(trainer)

    on_test_end = on_predict_end = on_validation_end

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._discard(trainer)

    def _discard(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            shutil.rmtree(self._aside, ignore_errors=True)

    def _put_in_place(self, trainer: Trainer, pl_module: LightningModule) -> None:
        made = sorted(path for path in self._aside.iterdir())
        for folder in filter(Path.is_dir, made):
            text = json.dumps(_record(folder, trainer, pl_module), indent=1)
            (folder / RECORD).write_text(text, encoding="utf-8")
        old = self._aside / "old"
        old.mkdir()
        self._save_dir.mkdir(parents=True, exist_ok=True)
        for path in made:
            if (self._save_dir / path.name).exists():
                os.replace(self._save_dir / path.name, old / path.name)
        for path in made:
            os.replace(path, self._save_dir / path.name)


def _record(folder: Path, trainer: Trainer, system: Any) -> dict[str, Any]:
    """The views that a folder has a picture of, by its index; or how a mesh was made."""
    record = {"stage": trainer.state.fn.value, "step": system.true_global_step}
    if trainer.predicting:
        return record | {key: plain(getattr(system.cfg, key, None)) for key in EXPORT}
    dataset = (trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders).dataset
    views = [view for i, view in enumerate(dataset) if (folder / f"{i}.png").is_file()]
    if views and {*ANGLES, "width", "height"} <= views[0].keys():
        record |= {name: int(views[0][name]) for name in ("width", "height")}
        record |= {ANGLES[key]: [float(view[key]) for view in views] for key in ANGLES}
    return record
