"""Configs: OmegaConf resolvers, loading YAML with overrides, checking it against dataclasses."""

import dataclasses
import difflib
import os
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

import threestudio
from threestudio.utils.files import replacing


def C_max(value: Any) -> float:
    """The largest number that a schedule (see `threestudio.utils.misc.C`) ever takes."""
    if isinstance(value, int | float):
        return value
    numbers = list(config_to_primitive(value))
    if len(numbers) == 3:
        numbers = [0, *numbers]
    # [step, value, value, step, value, step, ...]
    return max(numbers[1], *numbers[2::2])


_RESOLVERS = {
    "calc_exp_lr_decay_rate": lambda factor, n: factor ** (1.0 / n),
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "idiv": lambda a, b: a // b,
    "basename": os.path.basename,
    "rmspace": lambda text, replacement: text.replace(" ", replacement),
    "tuple2": lambda number: [float(number), float(number)],
    "gt0": lambda number: number > 0,
    "not": lambda flag: not flag,
    "cmaxgt0": lambda schedule: C_max(schedule) > 0,
    "cmaxgt0orcmaxgt0": lambda a, b: C_max(a) > 0 or C_max(b) > 0,
}
with warnings.catch_warnings():
    # OmegaConf 2.4 calls it register_resolver, a name that meant something else before
    warnings.simplefilter("ignore", UserWarning)
    for _name, _resolver in _RESOLVERS.items():
        OmegaConf.register_new_resolver(_name, _resolver, replace=True)


@dataclass
class ExperimentConfig:
    """A whole run. `exp_dir`, `trial_name` and `trial_dir` follow from the other fields."""

    name: str = "default"
    description: str = ""
    tag: str = ""
    seed: int = 0
    use_timestamp: bool = True
    timestamp: str | None = None
    exp_root_dir: str = "outputs"

    exp_dir: str = "outputs/default"
    trial_name: str = "exp"
    trial_dir: str = "outputs/default/exp"
    n_gpus: int = 1

    resume: str | None = None

    data_type: str = ""
    data: dict = field(default_factory=dict)

    system_type: str = ""
    system: dict = field(default_factory=dict)

    trainer: dict = field(default_factory=dict)  # arguments of pytorch_lightning.Trainer
    checkpoint: dict = field(default_factory=dict)  # arguments of ModelCheckpoint

    def __post_init__(self) -> None:
        if not self.tag and not self.use_timestamp:
            raise ValueError(
                "use_timestamp=false and tag is empty, so the run's folder has no name: "
                "set tag=... or use_timestamp=true."
            )
        if self.timestamp is None:
            self.timestamp = self._new_timestamp()
        self.trial_name = f"{self.tag}{self.timestamp}"
        self.exp_dir = os.path.join(self.exp_root_dir, self.name)
        self.trial_dir = os.path.join(self.exp_dir, self.trial_name)

    def _new_timestamp(self) -> str:
        if not self.use_timestamp:
            return ""
        if self.n_gpus > 1:
            # each device's process reads its own clock, and they must agree on the folder
            threestudio.warn("No timestamp with several devices: choose a tag of your own.")
            return ""
        return datetime.now().strftime("@%Y%m%d-%H%M%S")


def load_config(*yamls: str, cli_args: list | None = None, from_string: bool = False, **kwargs):
    """Merges YAML files, then `key=value` overrides, then keyword arguments, and resolves them.

    Args:
        yamls: paths, or with `from_string` the YAML texts themselves; later ones win.
        cli_args: overrides like `["seed=1", "system.guidance.guidance_scale=7.5"]`.
        kwargs: top-level keys, taken as they are; they win over everything.

    Returns:
        An `ExperimentConfig` as OmegaConf's `DictConfig`.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: for broken YAML, unknown keys, wrong types, and mandatory values (`???`) that
            nobody gave.
    """
    parts = [_parse_yaml(text, from_string) for text in yamls]
    cfg = OmegaConf.merge(*parts, OmegaConf.from_cli(list(cli_args or [])), kwargs)
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        others = f" Also missing: {', '.join(missing[1:])}." if missing[1:] else ""
        raise ValueError(_missing_text(missing[0]) + others)
    # OmegaConf.resolve would take what the text of an escaped "${" became for an interpolation
    resolved = OmegaConf.to_container(cfg, resolve=True)
    return parse_structured(ExperimentConfig, OmegaConf.create(escaped(resolved)))


def escaped(value: Any) -> Any:
    """The value with "${" in its texts, at any depth, as OmegaConf writes it where it is text."""
    if isinstance(value, dict):
        return {key: escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escaped(item) for item in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def _parse_yaml(text: str, from_string: bool) -> DictConfig:
    if not from_string and not os.path.isfile(text):
        raise FileNotFoundError(f"config file '{text}' does not exist: check --config.")
    source = "the given text" if from_string else f"'{text}'"
    try:
        part = OmegaConf.create(text) if from_string else OmegaConf.load(text)
    except YAMLError as error:
        raise ValueError(f"{source} is not valid YAML: {error}") from error
    if not isinstance(part, DictConfig):
        raise ValueError(f"{source} must hold `key: value` lines at its top level.")
    return part


def config_to_primitive(config: Any, resolve: bool = True) -> Any:
    """Plain dicts and lists of an OmegaConf config; anything else as it is."""
    return (
        OmegaConf.to_container(config, resolve=resolve) if OmegaConf.is_config(config) else config
    )


def dump_config(path: str, config: Any) -> None:
    """Writes `config` as YAML; the file appears complete or not at all."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        OmegaConf.save(config=config, f=file)


def parse_structured(fields: type, cfg: dict | DictConfig | None = None) -> Any:
    """Checks `cfg` against the dataclass `fields` and fills in its defaults.

    The result remembers its place in the config that `cfg` was part of, so that errors about it
    can say `system.guidance.guidance_scale` and not only `guidance_scale`.

    Raises:
        ValueError: for a key that the dataclass lacks (with close matches), a missing mandatory
            value, or a value of the wrong type.
    """
    cfg = {} if cfg is None else cfg
    owner = fields.__qualname__.removesuffix(".Config").rpartition("<locals>.")[2]
    known = [f.name for f in dataclasses.fields(fields) if f.init]
    for key in cfg:
        if key not in known:
            raise ValueError(unknown_key_text(_full_key(cfg, key), owner, str(key), known))
        if OmegaConf.is_config(cfg) and OmegaConf.is_missing(cfg, key):
            raise ValueError(_missing_text(_full_key(cfg, key)))
    mandatory = [
        f.name
        for f in dataclasses.fields(fields)
        if f.init
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
        and f.name not in cfg
    ]
    if mandatory:
        raise ValueError(_missing_text(_full_key(cfg, mandatory[0])))
    try:
        parsed = OmegaConf.structured(fields(**{key: escaped(cfg[key]) for key in cfg}))
    except OmegaConfBaseException as error:
        reason = str(error).partition("\n")[0]
        key = _full_key(cfg, error.full_key or "")
        raise ValueError(f"{key} does not fit {owner}.{error.full_key}: {reason}.") from error
    place = config_key(cfg)
    return OmegaConf.create({place: parsed})[place] if place else parsed


def config_key(value: Any) -> str:
    """Where `value` stands in its config, such as `system.loss.lambda_orient`; '' if unknown."""
    # OmegaConf has no public name for this; a node's place is in its own errors only
    return value._get_full_key(None) if isinstance(value, DictConfig | ListConfig) else ""


def _full_key(cfg: Any, key: str) -> str:
    place = config_key(cfg)
    return f"{place}.{key}" if place else str(key)


def _missing_text(key: str) -> str:
    return f"{key} is required: add {key}=... to the command line or set it in the config file."


def unknown_key_text(full_key: str, owner: str, key: str, known: Iterable[str]) -> str:
    """What is said about a key that its owner does not have."""
    close = difflib.get_close_matches(key, known, n=2)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"{full_key}: {owner} has no key '{key}': {hint}known keys: {', '.join(sorted(known))}."
