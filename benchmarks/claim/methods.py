"""Which methods can run here, and the same methods in fewer steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from threestudio_jointdreamer.weights.inventory import MISSING, inventory_of

from jointdreamer.experiment import read_experiment
from jointdreamer.paths import find_file
from jointdreamer.sweeps.plan import Method, Sweep, read_sweep

TRAINING = {  # how to make what may be missing
    "wonder3d": "jointdreamer tinyworld train wonder3d",
    "zero123": "jointdreamer tinyworld train zero123",
    "pair-classifier": "jointdreamer train-classifier --data tinyworld --out {name}",
    "mvdream": "jointdreamer tinyworld train mvdream",
    "stable-diffusion": "jointdreamer tinyworld train all",
}


@dataclass(frozen=True)
class Missing:
    """A method that cannot run here, and why, with what to do."""

    method: str
    reason: str


def read_methods(path: Path, wanted: Sequence[str] | None) -> tuple[Sweep, list[Missing]]:
    """The sweep of all methods that can run, and those that cannot; `wanted` ones of both only.

    Raises:
        ValueError: the file is wrong, or has no such method.
    """
    path = find_file(path, "SWEEP")
    raw = OmegaConf.to_container(OmegaConf.load(path), resolve=False)["methods"]
    if unknown := [name for name in wanted or () if name not in raw]:
        raise ValueError(f"--methods {unknown[0]}: there is no such one, but {', '.join(raw)}.")
    names = [name for name in raw if wanted is None or name in wanted]
    left_out = set(raw) - set(names)
    missing = []
    for name in names:
        try:
            find_file(Path(raw[name]["config"]), f"{name}: config")
        except FileNotFoundError as error:
            missing.append(Missing(name, str(error)))
    if len(missing) == len(names):
        raise ValueError(f"None of these methods can run: {missing[0].reason}")
    sweep = read_sweep(path, without=left_out | {entry.method for entry in missing})
    for method in sweep.methods:
        if reason := _lacks(read_experiment(method.config, (*sweep.overrides, *method.overrides))):
            missing.append(Missing(method.name, reason))
    absent = {entry.method for entry in missing}
    methods = tuple(method for method in sweep.methods if method.name not in absent)
    return replace(sweep, methods=methods), missing


def _lacks(cfg: DictConfig) -> str:
    """Which weights are not on this machine, in one sentence; empty if none."""
    items = [item for item in inventory_of(cfg) if item.state == MISSING]
    if not items:
        return ""
    name = str(items[0].needed.name)
    command = TRAINING.get(Path(name).name)
    remedy = f" Train it: {command.format(name=name)}" if command else ""
    return f"{items[0].problem}{remedy}"


def shortened(sweep: Sweep, steps: int) -> Sweep:
    """The same sweep with all schedules of its configs scaled to `steps` steps."""
    methods = []
    for method in sweep.methods:
        overrides = (*sweep.overrides, *method.overrides, *sweep.last_overrides)
        cfg = read_experiment(method.config, overrides)
        methods.append(replace(method, overrides=(*method.overrides, *_scaled(cfg, steps))))
    return replace(sweep, methods=tuple(methods), steps=None)


def _scaled(cfg: DictConfig, steps: int) -> list[str]:
    before = cfg.trainer.max_steps
    content = OmegaConf.to_container(cfg, resolve=False)

    def to_scale(step: float) -> int:
        return round(step * steps / before)

    found = [f"trainer.max_steps={steps}"]
    for key, value in _leaves(content):
        name = key.rpartition(".")[2]
        if name == "start_step" and isinstance(value, int):
            found.append(f"{key}={to_scale(value)}")
        elif name == "resolution_milestones":
            found.append(f"{key}={sorted({max(1, to_scale(step)) for step in value})}")
        elif _is_schedule(value):
            begin = to_scale(value[0])
            end = max(begin + 1, to_scale(value[3]))
            found.append(f"{key}={[begin, *value[1:3], end]}")
    return found


def _leaves(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _leaves(value, f"{key}.{name}" if key else name)
    else:
        yield key, content


def _is_schedule(value: Any) -> bool:
    """threestudio's [start_step, start_value, end_value, end_step]."""
    if not isinstance(value, list) or len(value) != 4:
        return False
    numbers = all(isinstance(number, int | float) for number in value)
    return numbers and type(value[0]) is int and type(value[3]) is int and value[0] < value[3]


def named(sweep: Sweep, names: Sequence[str]) -> tuple[Method, ...]:
    return tuple(method for method in sweep.methods if method.name in names)
