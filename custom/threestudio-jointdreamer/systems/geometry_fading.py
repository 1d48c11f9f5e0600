"""Geometry Fading (JointDreamer): late in a run the shape settles, while the texture goes on.

From `start_step` on, named parameter groups step with a small learning rate and the orientation
loss is off. Everything here is a pure function of the global step, and the optimizer's own
learning rates are put back after each step: checkpoints, schedulers and resumed runs see an
optimizer that knows nothing of fading.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated

from torch.optim import Optimizer


@dataclass
class GeometryFadingConfig:
    """The block `system.geometry_fading`.

    Attributes:
        start_step: the first step with faded learning rates.
        end_step: where a linear fall of the rates ends; without it they fall at once.
        lr: the learning rate each group of `system.optimizer.params` falls to.
        disable_orientation: whether the orientation loss is off from `start_step`.
    """

    start_step: Annotated[int, "[0, inf)"] = 5000
    end_step: Annotated[int | None, "[0, inf)"] = None
    lr: Annotated[dict[str, float], "[0, inf)"] = field(default_factory=dict)  # 0 freezes
    disable_orientation: bool = True


class GeometryFading:
    """Answers, for a step, which learning rates apply and whether the orientation loss is on.

    Args:
        cfg: the parsed block.
        groups: names of the optimizer's parameter groups (keys of `system.optimizer.params`).

    Raises:
        ValueError: an unknown group, or `end_step` before `start_step`.
    """

    def __init__(self, cfg: GeometryFadingConfig, groups: Iterable[str]) -> None:
        known = list(groups)
        for name in cfg.lr:
            if name not in known:
                raise ValueError(
                    f"system.geometry_fading.lr.{name} names no parameter group. "
                    f"Groups of system.optimizer.params: {', '.join(known) or 'none'}."
                )
        if cfg.end_step is not None and cfg.end_step <= cfg.start_step:
            raise ValueError(
                f"system.geometry_fading.end_step={cfg.end_step} must come after "
                f"start_step={cfg.start_step}; leave it out for a switch at one step."
            )
        self.cfg = cfg

    def progress(self, step: int) -> float:
        """How far the rates have fallen at `step`: 0 not at all, 1 all the way."""
        start, end = self.cfg.start_step, self.cfg.end_step
        if end is None:
            return float(step >= start)
        return min(1.0, max(0.0, (step - start) / (end - start)))

    def rate(self, name: str, base: float, step: int) -> float:
        """The learning rate of group `name` at `step`, given the `base` it would have."""
        if name not in self.cfg.lr:
            return base
        faded = self.progress(step)
        return (1.0 - faded) * base + faded * self.cfg.lr[name]

    def orientation_is_off(self, step: int) -> bool:
        return self.cfg.disable_orientation and step >= self.cfg.start_step

    def rates(self, optimizer: Optimizer, step: int) -> dict[str, float]:
        """The learning rates at `step` of the groups that fade, from the ones they have now."""
        return {
            group["name"]: self.rate(group["name"], group["lr"], step)
            for group in optimizer.param_groups
            if group.get("name") in self.cfg.lr
        }


@contextmanager
def stepping_with(optimizer: Optimizer, rates: dict[str, float]) -> Iterator[None]:
    """Within it the named groups of `optimizer` have these rates; afterwards their own again."""
    groups = [group for group in optimizer.param_groups if group.get("name") in rates]
    own = [group["lr"] for group in groups]
    try:
        for group in groups:
            group["lr"] = rates[group["name"]]
        yield
    finally:
        for group, rate in zip(groups, own, strict=True):
            group["lr"] = rate
