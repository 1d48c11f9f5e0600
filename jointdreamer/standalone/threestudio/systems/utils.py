"""Optimizers and learning rate schedules from configs."""

import difflib
from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import torch
import torch.nn as nn
from omegaconf import DictConfig
from torch.optim import Optimizer, lr_scheduler

from threestudio.utils.config import config_key, config_to_primitive


def get_parameters(model: nn.Module, name: str) -> Iterable[nn.Parameter] | nn.Parameter:
    """The parameters of the submodule, or the one parameter, at a path like `geometry.encoding`.

    Raises:
        ValueError: if there is nothing at that path, or something without parameters.
    """
    try:
        found = attrgetter(name)(model)
    except AttributeError as error:
        raise ValueError(
            f"optimizer.params.{name}: {type(model).__name__} has no '{name}'; "
            f"it has {', '.join(sorted(child for child, _ in model.named_children()))}."
        ) from error
    if isinstance(found, nn.Module):
        return found.parameters()
    if isinstance(found, nn.Parameter):
        return found
    raise ValueError(f"optimizer.params.{name} is a {type(found).__name__}: name a module.")


def parse_optimizer(config: DictConfig, model: nn.Module) -> Optimizer:
    """The optimizer that `config` describes.

    `name` is a class of torch.optim, `args` its arguments. With `params`, a dict from paths in
    `model` to their own arguments, each path is a parameter group called `name`; what no path
    reaches is not trained. Without it all parameters are trained.

    Raises:
        ValueError: for unknown names, paths and arguments.
    """
    if config.get("params"):
        _check_disjoint(list(config.params))
        params = [
            {"params": get_parameters(model, name), "name": name, **(args or {})}
            for name, args in config_to_primitive(config.params).items()
        ]
    else:
        params = model.parameters()
    return _make(torch.optim, Optimizer, config, "optimizer", params)


def _check_disjoint(names: list[str]) -> None:
    """No group may lie inside another one, as `geometry.encoding` does in `geometry`."""
    for outer in names:
        inner = next((name for name in names if name.startswith(f"{outer}.")), None)
        if inner is not None:
            raise ValueError(
                f"optimizer.params.{outer} contains optimizer.params.{inner}, which would be "
                "trained twice: keep one of them. On the command line a path with dots goes in "
                f"brackets: system.optimizer.params[{inner}].lr=0.01"
            )


def parse_scheduler(config: DictConfig, optimizer: Optimizer) -> dict[str, Any]:
    """Lightning's description of the learning rate schedule that `config` describes.

    `name` is a class of torch.optim.lr_scheduler and `args` its arguments; `interval` is "epoch" or
    "step".

    Raises:
        ValueError: for unknown names, arguments and intervals.
    """
    interval = config.get("interval", "epoch")
    if interval not in ("epoch", "step"):
        raise ValueError(
            f"{config_key(config) or 'scheduler'}.interval='{interval}' is unknown: use 'epoch' or "
            "'step'."
        )
    scheduler = _make(lr_scheduler, lr_scheduler.LRScheduler, config, "scheduler", optimizer)
    return {"scheduler": scheduler, "interval": interval}


def _make(module: Any, base: type, config: DictConfig, what: str, first: Any) -> Any:
    """The class of `module` that `config.name` says, called with `first` and `config.args`."""
    key, name = config_key(config) or what, str(config.get("name"))
    make = getattr(module, name, None)
    if not (isinstance(make, type) and issubclass(make, base)):
        names = [name for name, value in vars(module).items() if isinstance(value, type)]
        close = difflib.get_close_matches(name, names, n=2)
        hint = f"did you mean {' or '.join(close)}?" if close else f"see {module.__name__}."
        raise ValueError(f"{key}.name='{name}' is unknown: {hint}")
    args = config_to_primitive(config.args) if config.get("args") else {}  # no OmegaConf in states
    try:
        return make(first, **args)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key}.args={args} does not fit {name}: {error}.") from error
