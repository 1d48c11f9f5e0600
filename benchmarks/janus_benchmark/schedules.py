"""A sweep in fewer steps: all schedules of its methods' configs, scaled."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from jointdreamer.experiment import read_experiment
from jointdreamer.sweeps.plan import Sweep


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

    def to_scale(step: float) -> int:
        return round(step * steps / before)

    found = [f"trainer.max_steps={steps}"]
    for key, value in _leaves(OmegaConf.to_container(cfg, resolve=False)):
        name = key.rpartition(".")[2]
        if name == "start_step" and isinstance(value, int):
            found.append(f"{key}={to_scale(value)}")
        elif name == "resolution_milestones":
            found.append(f"{key}={sorted({max(1, to_scale(step)) for step in value})}")
        elif _is_schedule(value):
            *words, begin, first, last, end = value
            begin = to_scale(begin)
            schedule = [*words, begin, first, last, max(begin + 1, to_scale(end))]
            found.append(f"{key}=[{','.join(map(str, schedule))}]")
    return found


def _leaves(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _leaves(value, f"{key}.{name}" if key else name)
    else:
        yield key, content


def _is_schedule(value: Any) -> bool:
    """threestudio's [start_step, start_value, end_value, end_step], which may follow a word."""
    match value:
        case [str(), *rest] if rest:
            return _is_schedule(rest)
        case [int(start), int() | float(), int() | float(), int(end)]:
            return start < end
    return False
