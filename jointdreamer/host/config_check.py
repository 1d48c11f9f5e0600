"""Finds misspelt config keys before anything is built."""

import dataclasses
import difflib
import inspect
from collections.abc import Iterable
from typing import Any, get_type_hints

import threestudio
from omegaconf import DictConfig, OmegaConf
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
    plain = OmegaConf.to_container(cfg)  # an interpolation, or a missing value, is text in it
    _check_keys("", plain, ExperimentConfig.__name__, _field_names(ExperimentConfig))
    trainer = set(inspect.signature(Trainer.__init__).parameters) - {"self", *SET_BY_THE_LAUNCHER}
    _check_keys("trainer.", plain.get("trainer"), "pytorch_lightning.Trainer", trainer)
    checkpoint = set(inspect.signature(ModelCheckpoint.__init__).parameters) - {"self", "dirpath"}
    _check_keys("checkpoint.", plain.get("checkpoint"), "ModelCheckpoint", checkpoint)
    for key in ("data_type", "system_type"):
        if not plain.get(key):
            raise ValueError(f"{key} is required: set it in the config file.")
    _check_typed_blocks("", plain)


def _check_typed_blocks(prefix: str, block: dict[str, Any]) -> None:
    for key, name in block.items():
        part = str(key).removesuffix("_type")
        if part == key or part not in block:
            continue  # geometry.normal_type, for example: no block, no registered name
        if not isinstance(name, str) or not name or "${" in name or name == "???":
            continue
        cls, content = _find(f"{prefix}{key}", name), block[part]
        if not isinstance(content, dict):
            continue
        config = getattr(cls, "Config", None) or get_type_hints(cls).get("cfg")
        if dataclasses.is_dataclass(config):
            _check_keys(f"{prefix}{part}.", content, cls.__name__, _field_names(config))
        _check_typed_blocks(f"{prefix}{part}.", content)


def _find(key: str, name: str) -> type:
    try:
        return threestudio.find(name)
    except (ValueError, KeyError) as error:
        if text := why_not_here(key, name):
            raise ValueError(text) from error
        names = sorted(threestudio.__modules__)
        hint = _similar(name, names) or f"names: {', '.join(names)}."
        raise ValueError(f"{key}='{name}' is not registered: {hint}") from error


def _similar(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, known, n=2)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else ""


def _field_names(config: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(config) if field.init}


def _check_keys(prefix: str, block: Any, owner: str, known: set[str]) -> None:
    for key in block if isinstance(block, dict) else ():
        if key in known:
            continue
        if prefix == "trainer." and key in SET_BY_THE_LAUNCHER:
            raise ValueError(f"{prefix}{key} is set by the launcher: remove it from the config.")
        raise ValueError(
            f"{prefix}{key}: {owner} has no key '{key}': {_similar(str(key), known)} known keys: "
            f"{', '.join(sorted(known))}."
        )
