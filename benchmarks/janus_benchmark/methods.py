"""Which methods can run here, and the same methods in fewer steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from jointdreamer.experiment import read_experiment
from jointdreamer.paths import find_file, find_shipped
from jointdreamer.sweeps.plan import Sweep, read_sweep

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
    configs = OmegaConf.select(OmegaConf.load(find_file(path, "SWEEP")), "methods") or {}
    names = list(configs) if wanted is None else wanted
    if unknown := [name for name in names if name not in configs]:
        raise ValueError(f"--methods {unknown[0]}: there is no such one, but {', '.join(configs)}.")
    missing = [
        Missing(name, f"config {configs[name].config} does not exist.")
        for name in names
        if find_shipped(configs[name].config) is None
    ]
    if missing and len(missing) == len(names):
        raise ValueError(f"None of these methods can run: {names[0]}: {missing[0].reason}")
    absent = {entry.method for entry in missing}
    sweep = read_sweep(path, [name for name in names if name not in absent])
    for method in sweep.methods:
        cfg = read_experiment(method.config, (*sweep.overrides, *method.overrides))
        if reason := _lacks(cfg):
            missing.append(Missing(method.name, reason))
    absent = {entry.method for entry in missing}
    methods = tuple(method for method in sweep.methods if method.name not in absent)
    return replace(sweep, methods=methods), missing


def _lacks(cfg: DictConfig) -> str:
    """Which weights of load/ are not on this machine, in one sentence; empty if none."""
    for key, value in _leaves(OmegaConf.to_container(cfg, resolve=False)):
        of_load = key.endswith("_name_or_path") and str(value).startswith("load/")
        if of_load and find_shipped(value) is None:
            command = TRAINING.get(Path(value).name)
            remedy = f" Train it: {command.format(name=value)}" if command else ""
            return f"{key}: {value} does not exist.{remedy}"
    return ""


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
