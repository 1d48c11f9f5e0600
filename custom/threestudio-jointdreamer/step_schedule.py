"""Config numbers that change over training: threestudio's C() with its forms checked up front."""

from functools import partial
from numbers import Real
from typing import Annotated, Any

from omegaconf import OmegaConf
from threestudio.utils.misc import C

from .config_values import check_interval

FORMS = (
    "a number, [start_value, end_value, end_step], [start_step, start_value, end_value, end_step] "
    "or [start_step, start_value, end_value, end_step, end_value, end_step, ...]"
)


class StepSchedule:
    """A number, or a piecewise linear function of the training step.

    Args:
        value: one of `FORMS`. Integer steps count batches, float steps count epochs.
        key: the config key, for errors.
        within: the interval that every value must lie in.
        forms: what the key accepts, for errors.

    Raises:
        ValueError: another form, steps that do not increase, or a value outside of `within`.

    Example:
        >>> guidance_scale = StepSchedule([5000, 30.0, 50.0, 5001], "guidance_scale")
        >>> guidance_scale(epoch=0, global_step=5000), guidance_scale(epoch=0, global_step=5001)
        (30.0, 50.0)
    """

    def __init__(self, value, key: str, within: str = "(-inf, inf)", forms: str = FORMS) -> None:
        value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        steps, values = _parse(value, key, forms)
        if any(late <= early for early, late in zip(steps, steps[1:], strict=False)):
            raise ValueError(
                f"{key}={value}: the steps {steps} do not increase. The accepted forms are {forms}."
            )
        check_interval(steps, "(-inf, inf)", key)
        check_interval(values if len(values) > 1 else values[0], within, key)
        self.value = OmegaConf.create(value) if isinstance(value, list) else value
        self._knots, self._key, self._within = [*zip(steps, values, strict=False)], key, within

    def __call__(self, epoch: int, global_step: int) -> float:
        return C(self.value, epoch, global_step)

    def held_from(self, step: int, value: float) -> "StepSchedule":
        """The schedule as it is before `step`, and from there on `value`.

        Raises:
            ValueError: its steps count epochs, or `value` is none that it may have.
        """
        if not all(isinstance(at, int) for at, _ in self._knots):
            raise ValueError(f"{self._key}={self.value} counts epochs: change it in the config.")
        knots = [(at, old) for at, old in self._knots if at < step - 1]
        knots += [(step - 1, self(0, step - 1)), (step, value)]
        first, *others = knots if step > 0 else knots[-1:]
        held = [*first, *(x for at, new in others for x in (new, at))] if others else value
        return StepSchedule(held, self._key, self._within)


def _parse(value, key: str, forms: str) -> tuple[list, list]:
    """Steps and values of a schedule; no steps for a plain number."""
    if _is_number(value):
        return [], [value]
    length_fits = isinstance(value, list) and (
        len(value) in (3, 4) or (len(value) > 4 and len(value) % 2 == 0)
    )
    if not length_fits or not all(map(_is_number, value)):
        raise ValueError(f"{key}={value!r} is no schedule. The accepted forms are {forms}.")
    if len(value) == 3:
        value = [0, *value]
    start_step, start_value, *pairs = value
    return [start_step, *pairs[1::2]], [start_value, *pairs[0::2]]


def _is_number(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


Scheduled = Annotated[Any, StepSchedule]  # the type of a config's field
ScheduledFraction = Annotated[Any, partial(StepSchedule, within="[0, 1]")]
