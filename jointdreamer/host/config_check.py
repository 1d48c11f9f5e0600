"""Finds misspelt config keys before anything is built."""

import dataclasses
import difflib
import inspect
from typing import Any, get_type_hints

import threestudio
from omegaconf import DictConfig
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from threestudio.utils.config import ExperimentConfig

from .threestudio_names import why_not_here

SET_BY_THE_LAUNCHER = ("callbacks", "logger", "plugins")


def check_config(cfg: DictConfig) -> None:
    """Checks names in a config as written, interpolations unresolved.

    At every level: a block `x` beside `x_type` may hold only the keys of the `Config` dataclass of
    the class registered under that type. `trainer` and `checkpoint` may hold the arguments of
    Lightning's `Trainer` and `ModelCheckpoint`.

    Raises:
        ValueError: naming the full key, the class, and similar names; or where to run what this
            host does not have.
    """
    _check_keys("", cfg, ExperimentConfig.__name__, _field_names(ExperimentConfig))
    trainer = set(inspect.signature(Trainer.__init__).parameters) - {"self", *SET_BY_THE_LAUNCHER}
    _check_keys("trainer", _block(cfg, "trainer"), "pytorch_lightning.Trainer", trainer)
    checkpoint = set(inspect.signature(ModelCheckpoint.__init__).parameters) - {"self", "dirpath"}
    _check_keys("checkpoint", _block(cfg, "checkpoint"), "ModelCheckpoint", checkpoint)
    for key in ("data_type", "system_type"):
        if not cfg.get(key):
            raise ValueError(f"{key} is required: set it in the config file.")
    _check_typed_blocks("", cfg)


def _check_typed_blocks(prefix: str, block: DictConfig) -> None:
    for key in list(block):
        name = block._get_node(key)._value() if str(key).endswith("_type") else None
        if not isinstance(name, str) or not name or "${" in name:
            continue
        part = str(key).removesuffix("_type")
        content = _block(block, part)
        if content is None and part not in block:
            continue  # such as geometry.normal_type: no block, no registered name
        cls = _find(f"{prefix}{key}", name)
        if content is None:
            continue
        config = getattr(cls, "Config", None) or get_type_hints(cls).get("cfg")
        if dataclasses.is_dataclass(config):
            _check_keys(f"{prefix}{part}", content, cls.__name__, _field_names(config))
        _check_typed_blocks(f"{prefix}{part}.", content)


def _find(key: str, name: str) -> type:
    try:
        return threestudio.find(name)
    except (ValueError, KeyError) as error:
        if elsewhere := why_not_here(key, name):
            raise ValueError(elsewhere) from error
        names = sorted(threestudio.__modules__)
        close = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"names: {', '.join(names)}."
        raise ValueError(f"{key}='{name}' is not registered: {hint}") from error


def _block(block: DictConfig, key: str) -> DictConfig | None:
    """A block as written, or None if it is missing, mandatory or an interpolation."""
    node = block._get_node(key) if key in block or key in list(block) else None
    return node if isinstance(node, DictConfig) and isinstance(node._value(), dict) else None


def _field_names(config: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(config) if field.init}


def _check_keys(prefix: str, block: DictConfig | None, owner: str, known: set[str]) -> None:
    for key in block or {}:
        if key in known:
            continue
        full_key = f"{prefix}.{key}" if prefix else str(key)
        if prefix == "trainer" and key in SET_BY_THE_LAUNCHER:
            raise ValueError(f"{full_key} is set by the launcher: remove it from the config.")
        close = difflib.get_close_matches(str(key), known, n=2)
        hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
        raise ValueError(
            f"{full_key}: {owner} has no key '{key}': {hint}known keys: {', '.join(sorted(known))}."
        )
