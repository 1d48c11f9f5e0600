"""95 % confidence intervals of rates and of means over assets."""

import math
from collections.abc import Hashable, Sequence

import numpy as np

Interval = tuple[float, float]

Z = 1.959964  # 97.5 % quantile of the normal distribution
RESAMPLES = 4000
FEWEST_GROUPS = 5  # a bootstrap of fewer says next to nothing


def rate_interval(successes: int, trials: int) -> Interval:
    """Wilson's score interval of a rate in [0, 1], which stays honest at 0 and 1 of few trials."""
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} of {trials} is no rate.")
    p, spread = successes / trials, Z**2 / trials
    middle = p + spread / 2
    reach = Z * math.sqrt(p * (1 - p) / trials + spread / (4 * trials))
    return max(0.0, (middle - reach) / (1 + spread)), min(1.0, (middle + reach) / (1 + spread))


def mean_interval(values: Sequence[float], groups: Sequence[Hashable]) -> Interval | None:
    """Percentile bootstrap of the mean, drawing whole `groups` with replacement.

    Assets of one prompt resemble each other: with the prompts as groups, more seeds of the same
    prompts do not feign more evidence. The draws come from a fixed seed.

    Returns:
        None with fewer than `FEWEST_GROUPS` groups.
    """
    members = {group: [] for group in groups}
    for value, group in zip(values, groups, strict=True):
        members[group].append(value)
    if len(members) < FEWEST_GROUPS:
        return None
    sums = np.array([sum(group) for group in members.values()])
    sizes = np.array([len(group) for group in members.values()])
    drawn = np.random.default_rng(0).integers(len(sums), size=(RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
