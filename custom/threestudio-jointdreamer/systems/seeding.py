"""A training step's randomness as a function of (seed, step): checkpoints need no RNG state."""

import random

import numpy as np
import torch


def step_seed(seed: int, step: int, micro_batch: int = 0) -> int:
    """A 63-bit seed, well mixed: neighbouring steps and seeds give unrelated streams.

    Args:
        seed: the run's seed, any integer (`torch.initial_seed()` included).
        step: optimizer steps done so far.
        micro_batch: batches already drawn within this step (gradient accumulation), else 0.
    """
    entropy = np.random.SeedSequence([seed % 2**64, step, micro_batch])
    return int(entropy.generate_state(1, np.uint64)[0]) >> 1


def seed_everything_for(seed: int, step: int, micro_batch: int = 0) -> None:
    """Seeds torch (every device), numpy and random for one training step."""
    value = step_seed(seed, step, micro_batch)
    torch.manual_seed(value)
    np.random.seed(value % 2**32)
    random.seed(value)


class StepSeeder:
    """Seeds each training batch from the step, telling accumulated batches of one step apart.

    Checkpoints are written between optimizer steps, where the batch count is back at 0, so the
    count need not be saved.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._step: int | None = None
        self._micro_batch = 0

    def __call__(self, step: int) -> None:
        self._micro_batch = self._micro_batch + 1 if step == self._step else 0
        self._step = step
        seed_everything_for(self.seed, step, self._micro_batch)
