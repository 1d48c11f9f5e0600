"""The systems every other system derives from: the training life cycle, and 3D from text."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytorch_lightning as pl

import threestudio
from threestudio.systems.utils import parse_optimizer, parse_scheduler
from threestudio.utils.base import Updateable, update_if_possible
from threestudio.utils.config import load_config, parse_structured
from threestudio.utils.misc import C, get_device, load_module_weights
from threestudio.utils.saving import Loggers, SaverMixin


class BaseSystem(pl.LightningModule, Updateable, SaverMixin):
    """A Lightning module with a config, that tells all its parts about the step.

    Before each batch (training, validation, test, prediction) the dataset and then all public
    `Updateable` attributes get `do_update_step`.
    """

    @dataclass
    class Config:
        loggers: Annotated[dict, Loggers] = field(default_factory=dict)
        loss: dict = field(default_factory=dict)
        optimizer: dict = field(default_factory=dict)
        scheduler: dict | None = None
        weights: str | None = None
        weights_ignore_modules: list[str] | None = None

    cfg: Config

    def __init__(self, cfg: Any, resumed: bool = False) -> None:
        super().__init__()
        self.cfg = parse_structured(self.Config, cfg)
        self._save_dir = None
        self._resumed = resumed
        self._eval_status: tuple[int, int] | None = None  # epoch and step of a loaded checkpoint
        self.create_loggers(self.cfg.loggers)
        self.configure()
        if self.cfg.weights is not None:
            self.load_weights(self.cfg.weights, self.cfg.weights_ignore_modules)

    def load_weights(self, weights: str, ignore_modules: list[str] | None = None) -> None:
        """Starts from another run's checkpoint, whole or without some modules."""
        state_dict, epoch, global_step = load_module_weights(
            weights, ignore_modules=ignore_modules, map_location="cpu"
        )
        self.load_state_dict(state_dict, strict=False)
        self.do_update_step(epoch, global_step, on_load_weights=True)

    def set_resume_status(self, current_epoch: int, global_step: int) -> None:
        """Says at which step a checkpoint was saved that is only evaluated."""
        self._eval_status = (current_epoch, global_step)

    @property
    def resumed(self) -> bool:
        """Whether this run continues or evaluates a checkpoint."""
        return self._resumed

    @property
    def true_global_step(self) -> int:
        """The step that the weights are at, also when a checkpoint is only evaluated."""
        return self.global_step if self._eval_status is None else self._eval_status[1]

    @property
    def true_current_epoch(self) -> int:
        """The epoch that the weights are at."""
        return self.current_epoch if self._eval_status is None else self._eval_status[0]

    def configure(self) -> None:
        """Builds the parts. Called in the constructor."""

    def C(self, value: Any) -> float:
        """The value of a schedule at this step."""
        return C(value, self.true_current_epoch, self.true_global_step)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = parse_optimizer(self.cfg.optimizer, self)
        if self.cfg.scheduler is None:
            return {"optimizer": optimizer}
        scheduler = parse_scheduler(self.cfg.scheduler, optimizer)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def _before_batch(self, dataloader: Any) -> None:
        self.dataset = dataloader.dataset
        update_if_possible(self.dataset, self.true_current_epoch, self.true_global_step)
        self.do_update_step(self.true_current_epoch, self.true_global_step)

    def on_train_batch_start(self, batch, batch_idx, unused=0):
        self._before_batch(self.trainer.train_dataloader)

    def on_validation_batch_start(self, batch, batch_idx, dataloader_idx=0):
        self._before_batch(self.trainer.val_dataloaders)

    def on_test_batch_start(self, batch, batch_idx, dataloader_idx=0):
        self._before_batch(self.trainer.test_dataloaders)

    def on_predict_batch_start(self, batch, batch_idx, dataloader_idx=0):
        self._before_batch(self.trainer.predict_dataloaders)


class BaseLift3DSystem(BaseSystem):
    """Text to 3D: geometry, material, background, renderer, guidance, prompt, exporter."""

    @dataclass
    class Config(BaseSystem.Config):
        geometry_type: str = ""
        geometry: dict = field(default_factory=dict)
        # threestudio's: remakes another run's geometry as another kind
        geometry_convert_from: str | None = None
        geometry_convert_inherit_texture: bool = False
        geometry_convert_override: dict = field(default_factory=dict)

        material_type: str = ""
        material: dict = field(default_factory=dict)

        background_type: str = ""
        background: dict = field(default_factory=dict)

        renderer_type: str = ""
        renderer: dict = field(default_factory=dict)

        guidance_type: str = ""
        guidance: dict = field(default_factory=dict)

        prompt_processor_type: str = ""
        prompt_processor: dict = field(default_factory=dict)

        exporter_type: str = "mesh-exporter"
        exporter: dict = field(default_factory=dict)

    cfg: Config

    def configure(self) -> None:
        if self.cfg.geometry_convert_from and not self.cfg.weights and not self.resumed:
            self.geometry = self._converted_geometry(self.cfg.geometry_convert_from)
        else:
            self.geometry = threestudio.find(self.cfg.geometry_type)(self.cfg.geometry)
        self.material = threestudio.find(self.cfg.material_type)(self.cfg.material)
        self.background = threestudio.find(self.cfg.background_type)(self.cfg.background)
        self.renderer = threestudio.find(self.cfg.renderer_type)(
            self.cfg.renderer,
            geometry=self.geometry,
            material=self.material,
            background=self.background,
        )

    def _converted_geometry(self, checkpoint: str) -> Any:
        """The geometry of another run, whose config is in its folder, as this config's kind.

        Raises:
            FileNotFoundError: the checkpoint or the config is not there.
            ValueError: that kind cannot be made of the other.
        """
        key = f"system.geometry_convert_from={checkpoint}"
        state_dict, epoch, global_step = load_module_weights(checkpoint, map_location="cpu")
        config = Path(checkpoint).parent.parent / "configs" / "parsed.yaml"
        if not config.is_file():
            raise FileNotFoundError(f"{key}: {config} is missing: give a checkpoint in its run.")
        system = parse_structured(self.Config, load_config(str(config)).system)
        geometry = {**system.geometry, **self.cfg.geometry_convert_override}
        other = threestudio.find(system.geometry_type)(geometry)
        own = {
            k.removeprefix("geometry."): v
            for k, v in state_dict.items()
            if k.startswith("geometry.")
        }
        other.load_state_dict(own, strict=False)
        other.do_update_step(epoch, global_step, on_load_weights=True)
        try:
            return threestudio.find(self.cfg.geometry_type).create_from(
                other.to(get_device()),
                self.cfg.geometry,
                copy_net=self.cfg.geometry_convert_inherit_texture,
            )
        except TypeError as error:
            raise ValueError(
                f"{key} holds {system.geometry_type}, of which the standalone host can make no "
                f"{self.cfg.geometry_type}: start from the run's weights with system.weights, or "
                "run this in threestudio."
            ) from error

    def on_fit_start(self) -> None:
        if self._save_dir is None:
            threestudio.warn("No save folder is set: validation pictures will not be saved.")
        else:
            threestudio.info(f"Validation pictures go to {self._save_dir}")

    def on_test_end(self) -> None:
        if self._save_dir is not None:
            threestudio.info(f"Test results are in {self._save_dir}")

    def on_predict_start(self) -> None:
        self.exporter = threestudio.find(self.cfg.exporter_type)(
            self.cfg.exporter,
            geometry=self.geometry,
            material=self.material,
            background=self.background,
        )

    def predict_step(self, batch, batch_idx):
        if self.exporter.cfg.save_video:
            self.test_step(batch, batch_idx)

    def on_predict_epoch_end(self) -> None:
        if self.exporter.cfg.save_video:
            self.on_test_epoch_end()
        for out in self.exporter():
            save = getattr(self, f"save_{out.save_type}", None)
            if save is None:
                raise ValueError(
                    f"{self.cfg.exporter_type} wants to save a '{out.save_type}': "
                    f"{type(self).__name__} has no save_{out.save_type}."
                )
            save(f"it{self.true_global_step}-export/{out.save_name}", **out.params)

    def on_predict_end(self) -> None:
        if self._save_dir is not None:
            threestudio.info(f"Exported assets are in {self._save_dir}")
