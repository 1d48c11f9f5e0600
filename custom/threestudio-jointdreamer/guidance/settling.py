"""CFG switching when the shape has settled, in place of a step that somebody has to know.

Every W steps, an eighth of the run, the cameras of the first batch see the opacity O_k of what has
become of the object. Since then it has changed by

    c_k = ‖O_k − O_{k−1}‖₁ / ‖O_k‖₁,

and it has settled when it moves at a quarter of its fastest, 4 c_k ≤ max_{j ≤ k} c_j. Of the
fastest, since an optimiser never stands still: silhouettes keep trembling, those of Gaussians twice
as much as a NeRF's. An eighth of the run, since over shorter times trembling and drift look alike.
"""

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Float
from omegaconf import ListConfig
from torch import Tensor

from ..step_schedule import FORMS, StepSchedule

WINDOWS = 8  # of a run
STILL = 1 / 4  # of the fastest change
SETTLED = "settled"
WITH_SETTLED = f"{FORMS}, or [{SETTLED}, 30.0, 50.0]"


def waits(value: Any) -> bool:
    """Whether a config's `guidance_scale` waits for the shape."""
    return isinstance(value, list | ListConfig) and len(value) > 0 and value[0] == SETTLED


class ScaleSchedule:
    """`guidance_scale`: a schedule, or `[settled, 30.0, 50.0]`, before and after.

    Attributes:
        settled: whether the shape has; None if nobody watches it.

    Raises:
        ValueError: it is neither.
    """

    def __init__(self, value: Any, key: str) -> None:
        self.waits, self.settled, self._key = waits(value), None, key
        if self.waits and len(value) != 3:
            raise ValueError(f"{key}={value}: give [settled, 30.0, 50.0], before and after.")
        parts = value[1:] if self.waits else [value]
        self._parts = [StepSchedule(part, key, forms=WITH_SETTLED) for part in parts]

    def __call__(self, epoch: int, global_step: int) -> float:
        return self._parts[bool(self.settled)](epoch, global_step)

    @property
    def value(self) -> Any:
        """As it is written in a config."""
        values = [part.value for part in self._parts]
        return [SETTLED, *values] if self.waits else values[0]

    def held_from(self, step: int, value: float) -> "ScaleSchedule":
        """As `StepSchedule.held_from`; it waits for nothing any more."""
        held = self._parts[bool(self.settled)].held_from(step, value)
        return ScaleSchedule(held.value, self._key)


class SettlingShape:
    """Looks at a shape from the same cameras, again and again.

    Args:
        state: the attributes of an earlier one, to go on from.

    Attributes:
        settled: whether it has; it stays so.
        change, fastest: c_k, and the largest so far.
        step, batch, opacity: when it was looked at last, by which cameras, and O_k.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self.settled, self.change, self.fastest = False, 0.0, 0.0
        self.step, self.batch, self.opacity = -1, {}, None
        vars(self).update(state or {})

    def look(
        self,
        step: int,
        batch: Mapping[str, Any],
        render: Callable[[dict[str, Any]], Float[Tensor, "B H W 1"]],
        mean: Callable[[Tensor], Tensor] = lambda change: change,
    ) -> None:
        """To be called every W steps; keeps the first cameras, of which `render` makes O_k.

        `mean` is over a run's devices, each with cameras of its own.
        """
        if self.settled or step == self.step:
            return
        self.step, self.batch, last = step, self.batch or dict(batch), self.opacity
        self.opacity = render(self.batch)
        if last is not None:
            moved = (self.opacity - last.to(self.opacity)).abs().sum()
            self.change = float(mean(moved / self.opacity.abs().sum().clamp(min=1e-6)))
            self.fastest = max(self.fastest, self.change)
            self.settled = self.change <= STILL * self.fastest
