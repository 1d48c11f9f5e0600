"""How smooth a logged curve is: its scatter about a running median."""

import math
from statistics import median, pstdev

from ..runs import Series

CURVE = "train/grad_norm"
WINDOW = 11  # logged points, an odd number


def roughness(series: Series, window: int = WINDOW) -> float | None:
    """The standard deviation of ln(value / running median): 0.1 is a scatter of about 10 %.

    The running median follows what a schedule does to the curve (annealing, a change of
    resolution), the logarithm makes it free of units, and what is left is the noise from step to
    step; smaller is smoother. At the ends, the window is cut off. Values that are not finite and
    positive have no logarithm and are left out.

    Returns:
        None if fewer than `window` values are left.
    """
    logs = [math.log(value) for _, value in series if 0 < value < math.inf]
    if len(logs) < window:
        return None
    half = window // 2
    around = (logs[max(0, place - half) : place + half + 1] for place in range(len(logs)))
    return pstdev(value - median(near) for value, near in zip(logs, around, strict=True))
