"""What a sweep is to run: its file read and checked, and every run's folder and command line."""

import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ..experiment import read_experiment
from ..host.options import read_override
from ..paths import find_file
from ..prompt_lists import read_prompts
from ..slugs import slug

PROMPT = "system.prompt_processor.prompt"
OWN_KEYS = (PROMPT, "seed", "name", "tag", "exp_root_dir", "timestamp", "use_timestamp", "resume")


@dataclass
class MethodFile:
    """A method in a sweep's file."""

    config: str = MISSING
    overrides: Any = None


@dataclass
class SweepFile:
    """The keys of a sweep's file; see configs/sweeps/demo8.yaml."""

    prompts: Any = MISSING
    methods: dict[str, MethodFile] = MISSING
    seeds: list[int] = field(default_factory=lambda: [0])
    steps: int | None = None
    overrides: Any = None
    jobs: int | None = None
    out: str | None = None


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
        return slug(self.prompt, with_hash=True)

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
        """The command line of launch.py; goes on from the newest checkpoint if there is one."""
        own = {
            "exp_root_dir": str(self.out),
            "name": self.name,
            "tag": self.tag,
            "use_timestamp": False,
            "seed": self.seed,
            PROMPT: self.prompt,
        }
        resume = {"resume": str(self.folder)} if any(self.folder.glob("ckpts/*.ckpt")) else {}
        config = ("--config", str(self.method.config), "--train")
        return [*config, *as_overrides(own, ""), *self.overrides, *as_overrides(resume, "")]


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

    def runs(self) -> list[PlannedRun]:
        """Every run: seed by seed, prompt by prompt, so that methods can be compared early.

        Raises:
            ValueError: a config cannot be read, or an override is none or the sweep's own.
        """
        steps = () if self.steps is None else (f"trainer.max_steps={self.steps}",)
        planned = {}
        for method in self.methods:
            overrides = (*steps, *self.overrides, *method.overrides, *self.last_overrides)
            if bare := [item for item in overrides if "=" not in item]:
                raise ValueError(f"override '{bare[0]}' is no key=value.")
            total = OmegaConf.select(read_experiment(method.config, overrides), "trainer.max_steps")
            _refuse_own_keys(overrides)
            content = OmegaConf.to_container(read_experiment(method.config), resolve=False)
            digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
            planned[method] = overrides, total if isinstance(total, int) else None, digest
        return [
            PlannedRun(method, prompt, seed, self.out, *planned[method])
            for seed, prompt, method in itertools.product(self.seeds, self.prompts, self.methods)
        ]


def groups_of(runs: Sequence[PlannedRun], size: int, jobs: int) -> list[list[PlannedRun]]:
    """Runs of one method in groups of at most `size`, in order of their first runs.

    They are no larger than they have to be for `jobs` processes to be done in as few rounds: with
    3 x 16 runs of 11 methods and 16 processes, 44 groups of 12 in three rounds, as 33 of 16 are.
    """
    of_method: dict[Any, list[PlannedRun]] = {}
    for run in runs:
        of_method.setdefault((run.method, run.overrides), []).append(run)

    def rounds(n: int) -> int:
        return -(-sum(-(-len(members) // n) for members in of_method.values()) // jobs)

    n = next(n for n in range(1, size + 1) if rounds(n) == rounds(size))
    starts = [(members, i) for members in of_method.values() for i in range(0, len(members), n)]
    return sorted((m[i : i + n] for m, i in starts), key=lambda group: runs.index(group[0]))


def read_sweep(
    path: Path, methods: Sequence[str] | None = None, overrides: Sequence[str] = (), **changes: Any
) -> Sweep:
    """Reads a sweep's YAML file; paths in it are looked up from here, then in the repository.

    Args:
        methods: only these of the file's; the configs of others need not exist.
        overrides: `key=value` items that come last.
        changes: what takes the place of the file's keys; None changes nothing.

    Raises:
        FileNotFoundError: it, its prompts or a config do not exist.
        ValueError: a key is unknown, missing or of the wrong form.
    """
    path = find_file(path, "SWEEP")
    changes = {key: value for key, value in changes.items() if value is not None}
    try:
        merged = OmegaConf.merge(OmegaConf.structured(SweepFile), OmegaConf.load(path), changes)
        raw = OmegaConf.to_container(merged, resolve=False, throw_on_missing=True)
    except (YAMLError, OmegaConfBaseException, ValueError, TypeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: {reason}: see configs/sweeps/demo8.yaml.") from error
    for key in ("steps", "jobs"):
        if raw[key] is not None and raw[key] < 1:
            raise ValueError(f"{key}={raw[key]} must be a whole number from 1.")
    if not raw["seeds"] or min(raw["seeds"]) < 0:
        raise ValueError(f"seeds={raw['seeds']} must be whole numbers from 0, such as [0, 1].")
    prompts = raw["prompts"]
    if isinstance(prompts, str):
        prompts = read_prompts(prompts, "prompts")
    if not isinstance(prompts, list) or not all(isinstance(p, str) and p.strip() for p in prompts):
        raise ValueError("prompts must be a list of texts, none of them empty.")
    known = raw["methods"]
    names = list(known) if methods is None else methods
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"--methods {unknown[0]}: there is no such one, but {', '.join(known)}.")
    return Sweep(
        methods=tuple(_method(name, known[name]) for name in _distinct(names, "methods")),
        prompts=_distinct(prompts, "prompts"),
        seeds=_distinct(raw["seeds"], "seeds"),
        out=Path(raw["out"] or Path("outputs", path.stem)).resolve(),
        overrides=as_overrides(raw["overrides"], "overrides"),
        last_overrides=tuple(overrides),
        steps=raw["steps"],
        jobs=raw["jobs"],
    )


def _method(name: str, content: dict[str, Any]) -> Method:
    where = f"methods.{name}"
    if not re.fullmatch(r"[\w+-][\w.+-]*", name):
        raise ValueError(f"{where}: a name becomes a folder, so use letters, digits, - and _.")
    config = find_file(Path(content["config"]), f"{where}.config").resolve()
    return Method(name, config, as_overrides(content["overrides"], f"{where}.overrides"))


def _distinct(values: Sequence[Any], where: str) -> tuple[Any, ...]:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{where} has {value!r} twice: leave one.")
    if not values:
        raise ValueError(f"{where} is required: see configs/sweeps/demo8.yaml.")
    return tuple(values)


def as_overrides(value: Any, where: str) -> tuple[str, ...]:
    """`key=value` items out of a list of them, or out of a mapping, nested or with dotted keys.

    Values are quoted so that YAML reads them as they were given.
    """
    if isinstance(value, dict):
        return tuple(f"{key}={json.dumps(v, ensure_ascii=False)}" for key, v in value.items())
    if value is None or isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value or ())
    raise ValueError(f"{where} must be `key: value` lines or a list of 'key=value' texts.")


def _refuse_own_keys(overrides: Sequence[str]) -> None:
    given = OmegaConf.merge({}, *map(read_override, overrides))
    for key in OWN_KEYS:
        if (value := OmegaConf.select(given, key)) is not None:
            raise ValueError(
                f"{key}={value} cannot be overridden: prompts, methods, seeds and out say it."
            )
