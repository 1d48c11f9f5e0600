"""What every configurable object is made of: a checked config, and updates before each batch."""

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig
from torch import nn

from threestudio.utils.config import parse_structured
from threestudio.utils.misc import get_device


class Updateable:
    """Something that follows the training step, as do all its public `Updateable` attributes."""

    def do_update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Updates the attributes first, then the object itself."""
        for name, child in [*vars(self).items(), *vars(self).get("_modules", {}).items()]:
            if isinstance(child, Updateable) and not name.startswith("_"):
                child.do_update_step(epoch, global_step, on_load_weights=on_load_weights)
        self.update_step(epoch, global_step, on_load_weights=on_load_weights)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Called before each batch. Override it for what depends on the step.

        With `on_load_weights` it is called because weights were loaded: parameters and buffers
        may then lie on different devices.
        """


def update_if_possible(module: Any, epoch: int, global_step: int) -> None:
    """`do_update_step` of whatever has one."""
    if isinstance(module, Updateable):
        module.do_update_step(epoch, global_step)


class BaseObject(Updateable):
    """A configurable object; subclasses build themselves in `configure`."""

    @dataclass
    class Config:
        pass

    cfg: Config

    def __init__(self, cfg: dict | DictConfig | None = None, *args, **kwargs) -> None:
        super().__init__()
        self.cfg = parse_structured(self.Config, cfg)
        self.device = get_device()
        self.configure(*args, **kwargs)

    def configure(self, *args, **kwargs) -> None:
        """Called at the end of the constructor, with the arguments after `cfg`."""


class BaseModule(BaseObject, nn.Module):
    """A configurable `nn.Module`."""
