"""An energy weight that sets itself, `energy_weight: auto`.

Two distances tell how far the guidance and the energy would move the views: from x to the guided
estimate x̂0^cfg = (x_t − σ_t ε̂) / α_t, which is x − (σ_t/α_t) (ε̂ − ε); and ∂C/∂x̂0, which is α_t g
where ∂x̂0/∂x_t = 1/α_t. A share ρ of the second beside the first is asked for, of each object at
each step:

    (6)  λ α_t ‖g‖ = ρ (σ_t/α_t) ‖ε̂ − ε‖,    so λ = ρ (σ_t/α_t²) ‖ε̂ − ε‖ / ‖g‖

For C_MVS that is 2 λ ‖M − x̂0‖ = ρ ‖x̂0^cfg − x‖: if both models' estimates are as far away, ρ = 1
makes λ = 1/2, between the 0.3125 and the 0.625 of JointDreamer's authors.

In (5) the pull λ σ_t g is then ρ (σ_t/α_t)² times as long as ε̂ − ε. A constant λ shares it out over
noise levels in the same way, as λ σ_t g = 2 λ (σ_t/α_t)² (ε_φ − ε_M) by (1) and (3); one ratio of
the two at all levels would be another method. (6) has no state that a resumed run would need, and
no unit: an energy that is a thousand times as large gets a thousandth of λ.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from omegaconf import OmegaConf
from torch import Tensor

from ..step_schedule import StepSchedule

AUTO = "auto"


@dataclass(frozen=True)
class BalancedWeight:
    """λ of (6), for V views of each object.

    Attributes:
        share: ρ.
        n_view: V.
    """

    share: float
    n_view: int

    def __call__(
        self,
        residual: Float[Tensor, "B C h w"],
        g: Float[Tensor, "B C h w"],
        alpha: Float[Tensor, "B 1 1 1"],
        sigma: Float[Tensor, "B 1 1 1"],
    ) -> Float[Tensor, "B 1 1 1"]:
        """
        Args:
            residual: ε̂ − ε.
            g: ∂C/∂x_t; where it is 0 so is λ.
        """

        def norms(x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 1 1 1"]:
            of_objects = x.unflatten(0, (-1, self.n_view)).flatten(1).norm(dim=1)
            return of_objects.repeat_interleave(self.n_view).view(-1, 1, 1, 1)

        pull = norms(g)
        balanced = self.share * sigma / alpha**2 * norms(residual) / pull
        return torch.where(pull > 0, balanced, 0.0)


class EnergyWeight:
    """`energy_weight`: λ as a schedule, or `auto`, which is `{auto: 1.0}`, or `{auto: ρ}`.

    Called with epoch and step it gives λ or ρ, which may be a schedule as well.

    Raises:
        ValueError: it is none of these, or ρ is negative.
    """

    def __init__(self, value: Any, key: str) -> None:
        value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        value = {AUTO: 1.0} if isinstance(value, str) and value == AUTO else value
        self.is_auto = isinstance(value, Mapping)
        if self.is_auto and [*value] != [AUTO] or isinstance(value, str):
            raise ValueError(
                f"{key}={value!r} is no schedule, nor auto, nor {{auto: SHARE}} with a share of 0 "
                "or more beside the guidance's 1."
            )
        if self.is_auto:
            self._schedule = StepSchedule(value[AUTO], f"{key}.{AUTO}", within="[0, inf)")
        else:
            self._schedule = StepSchedule(value, key)
        self._key = key

    def __call__(self, epoch: int, global_step: int) -> float:
        return self._schedule(epoch, global_step)

    @property
    def value(self) -> Any:
        """As it is written in a config."""
        return {AUTO: self._schedule.value} if self.is_auto else self._schedule.value

    def held_from(self, step: int, value: float) -> "EnergyWeight":
        """As `StepSchedule.held_from`, of λ or of ρ."""
        held = self._schedule.held_from(step, value).value
        return EnergyWeight({AUTO: held} if self.is_auto else held, self._key)
