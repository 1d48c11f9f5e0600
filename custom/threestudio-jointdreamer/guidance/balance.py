"""An energy weight that sets itself, `energy_weight: auto`.

Two distances tell how far the guidance and the energy would move the views: from x to the guided
estimate x̂0^cfg = (x_t − σ_t ε̂) / α_t, which is x − (σ_t/α_t) (ε̂ − ε); and ∂C/∂x̂0, which is α_t g
where ∂x̂0/∂x_t = 1/α_t. A share ρ of the second beside the first is asked for, of each object at
each step:

    (6)  λ α_t ‖g‖ = ρ (σ_t/α_t) ‖ε̂ − ε‖,    so λ = ρ (σ_t/α_t²) ‖ε̂ − ε‖ / ‖g‖

For C_MVS that is 2 λ ‖M − x̂0‖ = ρ ‖x̂0^cfg − x‖. ρ is 1/2 by default and less than 1: the views come
to fit, ‖g‖ falls, and λ rises with it, so that an energy that asks for as much as the guidance gets
all of it in the end.

In (5) the pull λ σ_t g is then ρ (σ_t/α_t)² times as long as ε̂ − ε. A constant λ shares it out over
noise levels in the same way, as λ σ_t g = 2 λ (σ_t/α_t)² (ε_φ − ε_M) by (1) and (3); one ratio of
the two at all levels would be another method. (6) has no unit, and no state that resuming needs.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from omegaconf import ListConfig
from torch import Tensor

from ..step_schedule import FORMS, StepSchedule

AUTO = "auto"
SHARE = 0.5  # ρ: of the distance that the guidance asks for
WITH_AUTO = f"{FORMS}, or auto, or [auto, {SHARE}]"


@dataclass(frozen=True)
class BalancedWeight:
    """λ of (6) for the share ρ, with V = `n_view` views of each object."""

    share: float
    n_view: int

    def __call__(
        self,
        residual: Float[Tensor, "B C h w"],
        g: Float[Tensor, "B C h w"],
        alpha: Float[Tensor, "B 1 1 1"],
        sigma: Float[Tensor, "B 1 1 1"],
    ) -> Float[Tensor, "B 1 1 1"]:
        """Of the residual ε̂ − ε; 0 where g = ∂C/∂x_t is."""

        def norms(x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 1 1 1"]:
            of_objects = x.unflatten(0, (-1, self.n_view)).flatten(1).norm(dim=1)
            return of_objects.repeat_interleave(self.n_view).view(-1, 1, 1, 1)

        pull = norms(g)
        balanced = self.share * sigma / alpha**2 * norms(residual) / pull
        return torch.where(pull > 0, balanced, 0.0)


class EnergyWeight:
    """`energy_weight`: λ as a schedule, or `auto`, or `[auto, ρ]`.

    Called with epoch and step it gives λ, or with `auto` ρ, which is 1/2 by default, and may be a
    schedule: `[auto, 600, 0., 1., 601]`.

    Raises:
        ValueError: it is none of these, or ρ is negative.
    """

    def __init__(self, value: Any, key: str) -> None:
        words = [*value] if isinstance(value, list | ListConfig) else [value]
        self.is_auto = words[:1] == [AUTO]
        if self.is_auto:
            share = words[1:] or [SHARE]
            value = share[0] if len(share) == 1 else share
        within = "[0, inf)" if self.is_auto else "(-inf, inf)"
        self._schedule = StepSchedule(value, key, within, WITH_AUTO)
        self._key = key

    def __call__(self, epoch: int, global_step: int) -> float:
        return self._schedule(epoch, global_step)

    @property
    def value(self) -> Any:
        """As it is written in a config."""
        value = self._schedule.value
        share = value if isinstance(value, ListConfig) else [value]
        return [AUTO, *share] if self.is_auto else value

    def held_from(self, step: int, value: float) -> "EnergyWeight":
        """As `StepSchedule.held_from`, of λ or of ρ."""
        held = self._schedule.held_from(step, value).value
        return EnergyWeight([AUTO, *held] if self.is_auto else held, self._key)
