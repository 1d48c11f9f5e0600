"""A step's random numbers depend on the seed and the step, on nothing else."""

import random

import numpy as np
import torch
from threestudio_jointdreamer.systems.seeding import StepSeeder, seed_everything_for, step_seed


def draw() -> tuple[float, float, float]:
    return torch.rand(()).item(), float(np.random.rand()), random.random()


def test_every_generator_depends_on_seed_and_step_alone():
    draws = []
    for seed, step in [(3, 10), (3, 11), (4, 10), (-1, 10), (2**64 - 2, 10), (3, 10)]:
        seed_everything_for(seed, step)
        draws.append(draw())
    assert draws[-1] == draws[0]
    assert all(len(set(values)) == 5 for values in zip(*draws, strict=True))


def test_streams_of_neighbouring_steps_are_unrelated():
    rows = []
    for step in range(64):
        torch.manual_seed(step_seed(0, step))
        rows.append(torch.randn(2000))
    correlation = torch.corrcoef(torch.stack(rows)) - torch.eye(64)
    assert correlation.abs().max() < 0.15  # 6 sigma


def test_accumulated_batches_of_one_step_differ_and_restart_with_the_next():
    seeder = StepSeeder(0)
    seen = []
    for step in (4, 4, 5, 5):
        seeder(step)
        seen.append(draw())
    resumed = StepSeeder(0)
    resumed(5)
    assert seen[0] != seen[1] and draw() == seen[2]
