"""Checks a config, its keys and its values, before anything is built."""

import dataclasses
import inspect
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args, get_type_hints

import threestudio
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from threestudio.utils.config import ExperimentConfig
from threestudio_jointdreamer.config_values import (
    check_interval,
    field_hints,
    parse_block,
    parse_value,
    similar,
)
from torch.optim import Optimizer, lr_scheduler

from .threestudio_names import why_not_here

SET_BY_THE_LAUNCHER = {"trainer": ("callbacks", "logger", "plugins"), "checkpoint": ("dirpath",)}
TORCH = {"system.optimizer.": torch.optim, "system.scheduler.": lr_scheduler}
EVERY = Annotated[int | None, "[1, inf)"]
PRECISIONS = ("64-true", "32-true", "16-true", "16-mixed", "bf16-mixed")
RANGES = {  # where those who take the values let pass what makes no sense
    "seed": Annotated[int, "[0, 4294967295]"],
    "timestamp": Annotated[str | None, re.compile(r"[\w@:.-]*")],
    "filename": Annotated[str | None, re.compile(r"([^/\\{]|\{[^}]*\})+")],  # {train/loss} in it
    "max_steps": Annotated[int, "[-1, inf)"],
    "max_epochs": Annotated[int | None, "[-1, inf)"],
    "limit_train_batches": Annotated[int | float | None, "(0, inf)"],
    "val_check_interval": Annotated[int | float | str | dict | None, "(0, inf)"],
    "check_val_every_n_epoch": EVERY,
    "accumulate_grad_batches": Annotated[int, "[1, inf)"],
    "num_sanity_val_steps": Annotated[int | None, "[-1, inf)"],
    "gradient_clip_val": Annotated[int | float | None, "[0, inf)"],
    "num_nodes": Annotated[int, "[1, inf)"],
    "accelerator": Literal["auto", "cpu", "gpu", "cuda"],
    "precision": Literal[(*(64, 32, 16), *("64", "32", "16", "bf16"), *PRECISIONS)],
    "log_every_n_steps": Annotated[int, "[1, inf)"],
    "lr": Annotated[float, "[0, inf)"],
    "eps": Annotated[float, "[0, inf)"],
    "weight_decay": Annotated[float, "[0, inf)"],
    "betas": Annotated[tuple[float, float], "[0, 1)"],
}


def check_config(cfg: DictConfig) -> DictConfig:
    """Checks keys and values of a config, in which interpolations and `???` may be anything.

    At every level: a block `x` beside `x_type` holds what the `Config` dataclass of the class
    registered under that type declares. `trainer` and `checkpoint` hold the arguments of
    Lightning's `Trainer` and `ModelCheckpoint`, `system.optimizer` and `system.scheduler` those of
    the class of PyTorch that they name.

    Returns:
        The config with values of the types that are declared: 5.0 for 5 where a number is meant.

    Raises:
        ValueError: naming the full key and what belongs there; or where to run what this host does
            not have.
    """
    plain = OmegaConf.to_container(cfg)  # an interpolation, or a missing value, is text in it
    plain = parse_block(plain, _ranged(field_hints(ExperimentConfig)), "ExperimentConfig", "")
    for key, owner in (("trainer", Trainer), ("checkpoint", ModelCheckpoint)):
        for name in SET_BY_THE_LAUNCHER[key]:
            if name in plain.get(key, {}):
                raise ValueError(f"{key}.{name} is set by the launcher: remove it from the config.")
        plain[key] = _arguments(owner, plain.get(key, {}), key)
    for key in ("data_type", "system_type"):
        if not plain.get(key):
            raise ValueError(f"{key} is required: set it in the config file.")
    defaults = set()  # blocks whose type is not given
    for key, block, part, cls in _typed_blocks("", plain):
        if config := _config_class(cls):
            owner = cls.__name__ + f" ({key}_type's default)" * (key in defaults)
            block[part] = parse_block(block[part], field_hints(config), owner, key)
            for field in dataclasses.fields(config):  # a block may leave its type to the default
                inner = field.name.removesuffix("_type")
                if inner in block[part].keys() - {field.name} and field.name not in block[part]:
                    block[part][field.name] = field.default
                    defaults.add(f"{key}.{inner}")
            _check_types_are_given(config, block[part], key)
    _check_training(_block(plain, "system"))
    for key, block in plain.items():  # also where nothing is declared
        check_interval(block, "(-inf, inf)", key)
    return OmegaConf.create(plain)


def check_combinations(cfg: DictConfig) -> None:
    """Checks a config without interpolations: what its values mean together.

    Raises:
        ValueError: naming the keys.
    """
    plain = OmegaConf.to_container(check_config(cfg), resolve=True)
    for _, block, part, cls in _typed_blocks("", plain):
        if hasattr(config := _config_class(cls), "__post_init__"):
            config(**block[part])
    data, guidance = plain["data"], plain["system"].get("guidance", {})
    if data.get("n_view", 0) != guidance.get("n_view", data.get("n_view", 0)):
        raise ValueError(
            f"data.n_view={data.get('n_view')}, but system.guidance.n_view={guidance['n_view']}: "
            "views of one object would be taken for several objects'. Make them equal."
        )


def drop_keys_of_other_types(
    cfg: DictConfig,
    before: Mapping[str, Any],
    changes: Mapping[str, Any],
    prefix: str = "",
    hints: Mapping[str, Any] = MappingProxyType({}),
) -> list[str]:
    """Where `changes` name another type, removes from its block what only the former one has.

    Types are an `x_type`, an encoding's or a network's `otype`, an optimizer's or scheduler's name.

    Args:
        cfg: `before` with `changes`, which are not resolved; changed in place.
        prefix: before their keys, where they are a part of the config.
        hints: of their keys, as far as they are known.

    Returns:
        A line for each such block.
    """
    said = []

    def keep(block: Any, own: Iterable[str], given: Any) -> None:
        gone = [name for name in block or () if name not in own and name not in (given or ())]
        for name in gone:
            del block[name]
        if gone:
            said.append(f"{prefix}{key}={value} has no {', '.join(gone)}: left out.")

    for key, value in changes.items():
        part = str(key).removesuffix("_type")
        if isinstance(value, dict) and isinstance(before.get(key), dict):
            inner, name = _kinds(hints.get(key)), cfg.get(f"{key}_type")
            if isinstance(name, str) and name in threestudio.__modules__:
                inner = field_hints(config) if (config := _config_class(_find("", name))) else {}
            said += drop_keys_of_other_types(cfg[key], before[key], value, f"{prefix}{key}.", inner)
        elif before.get(key) == value:
            continue
        elif part != key and part in before:
            config = _config_class(_find(f"{prefix}{key}", value))
            keep(cfg[part], field_hints(config) if config else cfg[part], changes.get(part))
        elif key == "otype" and value in hints:
            keep(cfg, field_hints(hints[value]), changes)
        elif key == "name" and prefix in TORCH and hasattr(TORCH[prefix], str(value)):
            own = inspect.signature(getattr(TORCH[prefix], value)).parameters
            keep(cfg.get("args"), own, changes.get("args"))
            for path, group in (cfg.get("params") or {}).items():
                keep(group, own, (changes.get("params") or {}).get(path))
    return said


def _kinds(hint: Any) -> Mapping[str, type]:
    """The dataclasses by otype in a field's annotation."""
    return next((rule for rule in get_args(hint)[1:] if isinstance(rule, Mapping)), {})


def _typed_blocks(
    prefix: str, block: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any], str, type]]:
    """Of each block with a registered type: its full key, what holds it, its key there, its class.

    An outer block comes before those in it, which are looked for afterwards.
    """
    for key in list(block):
        name, part = block[key], str(key).removesuffix("_type")
        typed = part != key and isinstance(block.get(part), dict) and isinstance(name, str)
        if typed and name and "${" not in name and name != "???":  # no geometry.normal_type
            yield f"{prefix}{part}", block, part, _find(f"{prefix}{key}", name)
    for key, content in block.items():
        if isinstance(content, dict):
            yield from _typed_blocks(f"{prefix}{key}.", content)


def _config_class(cls: type) -> type | None:
    config = getattr(cls, "Config", None) or get_type_hints(cls).get("cfg")
    return config if dataclasses.is_dataclass(config) else None


def _check_types_are_given(config: type, block: dict[str, Any], key: str) -> None:
    for field in dataclasses.fields(config):
        typed = field.name.endswith("_type") and hasattr(config, field.name)
        block_too = field.name.removesuffix("_type") in field_hints(config)
        if typed and block_too and not block.get(field.name, field.default):
            raise ValueError(f"{key}.{field.name} is required: set it in the config file.")


def _find(key: str, name: str) -> type:
    try:
        return threestudio.find(name)
    except (ValueError, KeyError) as error:
        if text := why_not_here(key, name):
            raise ValueError(text) from error
        names = sorted(threestudio.__modules__)
        hint = similar(name, names) or f"names: {', '.join(names)}."
        raise ValueError(f"{key}='{name}' is not registered: {hint.strip()}") from error


def _ranged(hints: dict[str, Any]) -> dict[str, Any]:
    return hints | {key: hint for key, hint in RANGES.items() if key in hints}


def _arguments(call: type, block: dict[str, Any], key: str) -> dict[str, Any]:
    """The block with the types of the class's arguments; others are refused."""
    try:
        hints = get_type_hints(call.__init__, include_extras=True)
    except NameError:  # PyTorch imports some names for type checkers alone
        hints = {}
    taken = (*SET_BY_THE_LAUNCHER.get(key, ()), "params", "optimizer")
    names = [name for name in inspect.signature(call).parameters if name not in taken]
    own = _ranged({name: hints.get(name, Any) for name in names})
    return parse_block(block, own, call.__name__, key)


def _check_training(system: dict[str, Any]) -> None:
    """Gives `system.optimizer` and `system.scheduler` their types, and tries them on one number."""
    key, block = "system.optimizer", _block(system, "optimizer")
    if not block or block.get("name") in ("Adan", "FusedAdam"):  # threestudio's own
        return
    block |= parse_block(block, {"name": str, "args": dict, "params": dict}, "optimizer", key)
    cls = _torch_class(torch.optim, Optimizer, block, key)
    args = _arguments(cls, _block(block, "args"), f"{key}.args")
    optimizer = _tried(cls, [_weight()], args, f"{key}.args")
    block |= {"args": args} if args else {}
    groups = [{"params": [_weight()]} for _ in _block(block, "params")]
    if groups:  # which not every optimizer takes
        _tried(cls, groups, args, f"{key}.name={block['name']} with params, where args")
    for path, group in _block(block, "params").items():
        place = f"{key}.params.{path}"
        group = _arguments(cls, parse_value({} if group is None else group, dict, place), place)
        block["params"][path] = group
        optimizer = _tried(cls, [_weight()], args | group, place)
    key, block = "system.scheduler", _block(system, "scheduler")
    if not block or "schedulers" in block or optimizer is None:  # threestudio's lists of them
        return
    hints = {"name": str, "args": dict, "interval": Literal["epoch", "step"]}
    block |= parse_block(block, hints, "scheduler", key)
    cls = _torch_class(lr_scheduler, lr_scheduler.LRScheduler, block, key)
    args = _arguments(cls, _block(block, "args"), f"{key}.args")
    block |= {"args": args} if args else {}
    if not isinstance(block.get("args"), str):
        _tried(cls, optimizer, args, f"{key}.args")


def _block(block: dict[str, Any], key: str) -> dict[str, Any]:
    """That of this key; an empty one if it is none, or an interpolation."""
    return found if isinstance(found := block.get(key), dict) else {}


def _weight() -> torch.nn.Parameter:
    weight = torch.nn.Parameter(torch.zeros(1, 1))
    weight.grad = torch.zeros_like(weight)
    return weight


def _torch_class(module: Any, base: type, block: dict[str, Any], key: str) -> type:
    names = [n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, base)]
    names.remove(base.__name__)
    if (name := block.get("name")) not in names:
        raise ValueError(
            f"{key}.name={name!r} is unknown: {similar(str(name), names)}see {module.__name__}."
        )
    return getattr(module, name)


def _tried(cls: type, first: Any, args: dict[str, Any], key: str) -> Any:
    """An instance that has made a step with these arguments; None if some are not known yet."""
    if "${" in str(args) or "???" in str(args):
        return None
    try:
        made = cls(first, **args)
        on_gpu = args.get("capturable") and torch.cuda.is_available()  # no place to try it
        if isinstance(made, Optimizer) and not on_gpu:
            made.step(lambda: 0.0)
        elif hasattr(made, "get_last_lr") and not isinstance(made, lr_scheduler.ReduceLROnPlateau):
            with warnings.catch_warnings():  # it misses the optimizer's step
                warnings.simplefilter("ignore")
                made.step()
        return made
    except Exception as error:  # each class has checks of its own, and some divide by what they get
        raise ValueError(f"{key}={args} does not fit {cls.__name__}: {error}") from error
