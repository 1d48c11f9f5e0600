"""BaseObject, BaseModule and how the training step reaches everything."""

from dataclasses import dataclass

import pytest
import torch
from threestudio.utils.base import BaseModule, BaseObject, update_if_possible


class Part(BaseObject):
    def configure(self, log, name):
        self.log, self.name = log, name

    def update_step(self, epoch, global_step, on_load_weights=False):
        self.log.append((self.name, epoch, global_step, on_load_weights))


class Whole(BaseModule):
    @dataclass
    class Config(BaseModule.Config):
        width: int = 2

    def configure(self, log, name="whole", inner=True):
        self.log, self.name = log, name
        self.layer = torch.nn.Linear(self.cfg.width, 1)
        self._private = Part(None, log, "private")
        if inner:
            self.child = Part(None, log, "object")
            self.module = Whole(None, log, "module", inner=False)

    def update_step(self, epoch, global_step, on_load_weights=False):
        self.log.append((self.name, epoch, global_step, on_load_weights))


def test_an_update_reaches_public_objects_and_modules_before_the_whole():
    log = []
    Whole(None, log).do_update_step(1, 20, on_load_weights=True)
    assert log == [(name, 1, 20, True) for name in ("object", "module", "whole")]
    update_if_possible(object(), 0, 0)


def test_objects_check_their_config_and_get_further_arguments():
    part = Part({}, [], name="x")
    assert part.name == "x" and part.device.type in ("cpu", "cuda")
    with pytest.raises(ValueError, match="has no key 'widht'.*'width'"):
        Whole({"widht": 3}, [])
