"""What a sweep is to run: its file read and checked, and every run's folder and command line."""

import difflib
import hashlib
import itertools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ..experiment import read_experiment
from ..paths import find_file

KEYS = ("prompts", "methods", "seeds", "steps", "overrides", "jobs", "out")
METHOD_KEYS = ("config", "overrides")
SET_BY_THE_SWEEP = {
    "system.prompt_processor.prompt": "prompts",
    "seed": "seeds",
    "exp_root_dir": "out",
    "name": "methods",
    "tag": "prompts",
    "timestamp": "out",
    "use_timestamp": "out",
    "resume": "out",
}


@dataclass(frozen=True)
class Method:
    """A config under a name of its own; `overrides` are `key=value` items."""

    name: str
    config: Path
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedRun:
    """One prompt under one method and seed.

    Attributes:
        overrides: all `key=value` items, the method's included; later ones win.
        steps: `trainer.max_steps`, or None if the config leaves it open.
        config_sha256: of what the config says; its comments do not count.
    """

    method: Method
    prompt: str
    seed: int
    out: Path
    overrides: tuple[str, ...]
    steps: int | None
    config_sha256: str

    @property
    def name(self) -> str:
        return f"{self.method.name}-seed{self.seed}"

    @property
    def tag(self) -> str:
        """The prompt as a folder's name: the same in any order of prompts, different for each."""
        words = re.sub(r"[^\w-]+", "_", self.prompt.strip().lower()).strip("_")[:60]
        return f"{words}-{hashlib.sha256(self.prompt.encode()).hexdigest()[:6]}"

    @property
    def folder(self) -> Path:
        """What threestudio calls `trial_dir`."""
        return self.out / self.name / self.tag

    def settings(self) -> dict[str, Any]:
        """What makes this run this run; one that was made with others is another run."""
        return {
            "prompt": self.prompt,
            "seed": self.seed,
            "config_sha256": self.config_sha256,
            "overrides": list(self.overrides),
        }

    def arguments(self) -> list[str]:
        """The command line of threestudio's launch.py; goes on from a checkpoint if there is one.

        Checkpoints have their name only once they are complete, so any will do: the host takes
        the newest.
        """
        started = any(self.folder.glob("ckpts/*.ckpt"))
        return [
            "--config",
            str(self.method.config),
            "--train",
            f"exp_root_dir={_quoted(str(self.out))}",
            f"name={_quoted(self.name)}",
            f"tag={_quoted(self.tag)}",
            "use_timestamp=false",
            f"seed={self.seed}",
            f"system.prompt_processor.prompt={_quoted(self.prompt)}",
            *self.overrides,
            *([f"resume={_quoted(str(self.folder))}"] if started else []),
        ]


@dataclass(frozen=True)
class Sweep:
    """A sweep's file, read.

    Attributes:
        overrides: of all methods; a method's own come after them, `last_overrides` after these.
        jobs: runs at a time, or None if the file leaves it open.
    """

    methods: tuple[Method, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    out: Path
    overrides: tuple[str, ...] = ()
    last_overrides: tuple[str, ...] = ()
    steps: int | None = None
    jobs: int | None = None

    def choose(self, names: Sequence[str]) -> "Sweep":
        """The same with some of its methods only."""
        known = {method.name: method for method in self.methods}
        for name in names:
            if name not in known:
                raise ValueError(
                    f"--methods {name}: the sweep has no such method{_like(name, known)}"
                )
        return replace(self, methods=tuple(known[name] for name in names))

    def runs(self) -> list[PlannedRun]:
        """Every run: seed by seed, prompt by prompt, so that methods can be compared early.

        Raises:
            ValueError: a config cannot be read, or an override is none or the sweep's own.
        """
        steps = () if self.steps is None else (f"trainer.max_steps={self.steps}",)
        common = (*steps, *self.overrides)
        planned = {}
        for method in self.methods:
            overrides = (*common, *method.overrides, *self.last_overrides)
            if bare := [item for item in overrides if "=" not in item]:
                raise ValueError(f"override '{bare[0]}' is no key=value.")
            cfg = read_experiment(method.config, overrides)
            _refuse_own_keys(overrides)
            total = OmegaConf.select(cfg, "trainer.max_steps")
            total = total if isinstance(total, int) else None
            planned[method.name] = overrides, total, _digest(read_experiment(method.config))
        return [
            PlannedRun(method, prompt, seed, self.out, *planned[method.name])
            for seed, prompt, method in itertools.product(self.seeds, self.prompts, self.methods)
        ]


def read_sweep(path: Path, without: Collection[str] = ()) -> Sweep:
    """Reads a sweep's YAML file; paths in it are looked up from here, then in the repository.

    Args:
        without: methods to leave out; their configs need not exist.

    Raises:
        FileNotFoundError: it, its prompts or a config do not exist.
        ValueError: a key is unknown, missing or of the wrong form.
    """
    path = find_file(path, "SWEEP")
    try:
        raw = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{path} must hold `key: value` lines at its top level.")
    _check_keys(str(path), raw, KEYS, required=("prompts", "methods"))
    return Sweep(
        methods=_methods(path, raw["methods"], without),
        prompts=read_prompts(raw["prompts"], f"{path}: prompts"),
        seeds=check_seeds(raw.get("seeds", [0]), f"{path}: seeds"),
        out=Path(raw.get("out") or Path("outputs", path.stem)).resolve(),
        overrides=as_overrides(raw.get("overrides"), f"{path}: overrides"),
        steps=check_positive(raw.get("steps"), f"{path}: steps"),
        jobs=check_positive(raw.get("jobs"), f"{path}: jobs"),
    )


def _methods(path: Path, raw: Any, without: Collection[str]) -> tuple[Method, ...]:
    if not isinstance(raw, dict) or not raw:
        raise ValueError(f"{path}: methods must be `name: {{config: ...}}` entries.")
    raw = {name: content for name, content in raw.items() if name not in without}
    methods = []
    for name, content in raw.items():
        where = f"{path}: methods.{name}"
        if not re.fullmatch(r"[\w.+-]+", str(name)) or str(name).startswith("."):
            raise ValueError(f"{where}: a name becomes a folder, so use letters, digits, - and _.")
        if not isinstance(content, dict):
            raise ValueError(f"{where} must hold `config:`, and `overrides:` if it has any.")
        _check_keys(where, content, METHOD_KEYS, required=("config",))
        config = find_file(Path(str(content["config"])), f"{where}.config").resolve()
        overrides = as_overrides(content.get("overrides"), f"{where}.overrides")
        methods.append(Method(str(name), config, overrides))
    return tuple(methods)


def _check_keys(
    where: str, raw: dict[Any, Any], known: Sequence[str], required: Sequence[str]
) -> None:
    for key in raw:
        if key not in known:
            raise ValueError(f"{where} has no key '{key}'{_like(str(key), known)}")
    for key in required:
        if raw.get(key) in (None, "", [], {}):
            raise ValueError(f"{where}: {key} is required; see configs/sweeps/demo8.yaml.")


def _like(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f": did you mean '{close[0]}'?" if close else f": it has {', '.join(known)}."


def read_prompts(value: Any, where: str) -> tuple[str, ...]:
    """Prompts given in place, or those of a JSON file that lists them."""
    if isinstance(value, (str, Path)):
        where = f"{where} {value}"
        file = find_file(Path(value), where)
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{where} is no JSON ({error}): give a list of texts.") from error
    texts = isinstance(value, list) and all(isinstance(p, str) and p.strip() for p in value)
    if not texts or not value:
        raise ValueError(f"{where} must be a list of texts, none of them empty.")
    return _distinct(value, where)


def check_seeds(value: Any, where: str) -> tuple[int, ...]:
    whole = isinstance(value, list) and all(type(seed) is int and seed >= 0 for seed in value)
    if not whole or not value:
        raise ValueError(f"{where}={value} must be a list of whole numbers from 0, such as [0, 1].")
    return _distinct(value, where)


def _distinct(values: list[Any], where: str) -> tuple[Any, ...]:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{where} has {value!r} twice: leave one.")
    return tuple(values)


def check_positive(value: Any, where: str) -> int | None:
    if value is None or (type(value) is int and value > 0):
        return value
    raise ValueError(f"{where}={value} must be a whole number from 1.")


def as_overrides(value: Any, where: str) -> tuple[str, ...]:
    """`key=value` items out of a list of them, or out of a mapping, nested or with dotted keys."""
    if value is None:
        return ()
    if isinstance(value, dict):
        return tuple(f"{key}={_quoted(content)}" for key, content in value.items())
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise ValueError(f"{where} must be `key: value` lines or a list of 'key=value' texts.")


def _digest(cfg: DictConfig) -> str:
    content = json.dumps(OmegaConf.to_container(cfg, resolve=False), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _refuse_own_keys(overrides: Sequence[str]) -> None:
    given = OmegaConf.to_container(OmegaConf.from_cli(list(overrides)), resolve=False)
    for key, owner in SET_BY_THE_SWEEP.items():
        value: Any = given
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            raise ValueError(
                f"{key}={value} cannot be overridden: the sweep sets it itself; see `{owner}` in "
                "its file."
            )


def _quoted(value: Any) -> str:
    """A value of an override that YAML reads as this very value."""
    return json.dumps(value, ensure_ascii=False)
