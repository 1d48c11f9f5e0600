"""BaseObject, BaseModule and how the training step reaches everything."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from threestudio.utils.base import (
    BaseModule,
    BaseObject,
    Updateable,
    update_end_if_possible,
    update_if_possible,
)


class Part(BaseObject):
    def configure(self, log, name):
        self.log, self.name = log, name

    def update_step(self, epoch, global_step, on_load_weights=False):
        self.log.append((self.name, epoch, global_step, on_load_weights))

    def update_step_end(self, epoch, global_step):
        self.log.append((f"{self.name} end", epoch, global_step))


class Whole(BaseModule):
    def configure(self, log):
        self.log = log
        self.child = Part(None, log, "object")
        self.module = Net(None, log)
        self._private = Part(None, log, "private")
        self.hidden = SimpleNamespace(part=Part(None, log, "behind a property"))

    @property
    def shown(self):
        return self.hidden.part

    @property
    def broken(self):
        raise OSError("nothing to see")

    def update_step(self, epoch, global_step, on_load_weights=False):
        self.log.append(("whole", epoch, global_step, on_load_weights))


class Net(BaseModule):
    @dataclass
    class Config(BaseModule.Config):
        width: int = 2

    def configure(self, log=None):
        self.log = log
        self.layer = torch.nn.Linear(self.cfg.width, 1, bias=False)

    def update_step(self, epoch, global_step, on_load_weights=False):
        if self.log is not None:
            self.log.append(("module", epoch, global_step, on_load_weights))


def test_an_update_reaches_public_attributes_modules_and_properties_before_the_whole():
    log = []
    Whole(None, log).do_update_step(1, 20, on_load_weights=True)
    assert sorted(log[:-1]) == [
        ("behind a property", 1, 20, True),
        ("module", 1, 20, True),
        ("object", 1, 20, True),
    ]
    assert log[-1] == ("whole", 1, 20, True)


def test_the_end_of_a_step_reaches_the_same_parts_and_leaves_others_alone():
    log = []
    update_if_possible(object(), 0, 0)
    update_end_if_possible(object(), 0, 0)
    update_end_if_possible(Whole(None, log), 0, 5)
    assert sorted(log) == [("behind a property end", 0, 5), ("object end", 0, 5)]


def test_an_attribute_set_during_an_update_does_not_disturb_it():
    class Leaf(Updateable):
        def update_step(self, epoch, global_step, on_load_weights=False):
            setattr(self._tree, f"leaf{global_step}", 1)

    tree = Updateable()
    tree.leaf = Leaf()
    tree.leaf._tree = tree
    tree.do_update_step(0, 3)
    assert tree.leaf3 == 1


def test_objects_check_their_config_and_get_further_arguments():
    part = Part({}, [], name="x")
    assert part.name == "x" and part.device.type in ("cpu", "cuda")
    with pytest.raises(ValueError, match="has no key 'widht'.*'width'"):
        Net({"widht": 3})
