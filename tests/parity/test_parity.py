"""Our priors give the numbers that their reference implementations give on the same weights.

The fixtures were made by the references (`python -m benchmarks.parity --write-fixtures`): names and
shapes of their parameters, a seed, and digests of their outputs and gradients.
"""

import os

import pytest

from benchmarks.parity.comparison import (
    TARGETS,
    cases,
    compare_with_fixture,
    run_ours,
    run_reference,
)
from benchmarks.parity.seeded import digest, digest_error, fill, relative_errors

CASES = cases()


@pytest.mark.parametrize("case", CASES)
def test_output_and_gradient_are_the_references(case):
    errors = compare_with_fixture(CASES[case], case)
    assert set(errors) == {"output", "gradient"}
    assert max(errors.values()) < TARGETS["reduced"]


@pytest.mark.parametrize("case", CASES)
def test_a_live_reference_agrees_everywhere(case):
    module = CASES[case]
    if module.ENVIRONMENT not in os.environ:
        pytest.skip(f"{module.ENVIRONMENT} does not name a checkout of the reference")
    state_dict, theirs = run_reference(module, os.environ[module.ENVIRONMENT], case, "reduced")
    ours = run_ours(module, state_dict, case, "reduced")
    assert max(relative_errors(ours, theirs).values()) < TARGETS["reduced"]


def test_a_digest_notices_a_small_difference():
    weights = fill({"layer.weight": (40, 30)}, seed=0)["layer.weight"]
    other = weights.clone()
    other[::2] *= 1 + 1e-5
    assert digest_error(digest(weights), digest(weights)) == 0
    assert digest_error(digest(other), digest(weights)) > TARGETS["reduced"]


def test_weights_depend_on_name_and_seed_only():
    shapes = {"a.weight": (3, 2), "b.weight": (3, 2)}
    both, alone = fill(shapes, seed=0), fill({"b.weight": (3, 2)}, seed=0)
    assert both["b.weight"].equal(alone["b.weight"])
    assert not both["a.weight"].equal(both["b.weight"])
    assert not fill(shapes, seed=1)["a.weight"].equal(both["a.weight"])
