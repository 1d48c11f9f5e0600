"""jsd-guidance with configs/authors*.yaml gives the loss and the gradient of the authors' code.

The fixture was made by their checkout (`python -m benchmarks.parity.authors --write-fixture`).
"""

import os

import pytest

from benchmarks.parity.authors import (
    CASES,
    ENVIRONMENT,
    TARGET,
    Authors,
    compare,
    compare_with_fixture,
    run_ours,
)


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_are_the_authors(case):
    errors = compare_with_fixture(case)
    assert max(errors.values()) < TARGET


@pytest.mark.parametrize(
    "changes",
    [
        {"energy": {"mask_with_opacity": True}},
        {"energy": {"view_dependent_prompting": False}},
        {"energy": {"recon_std_rescale": 0.4}},
        {"energy_weight": 0.3126},
    ],
    ids=str,
)
def test_every_switch_is_seen(changes):
    errors = compare_with_fixture("with the energy and the mask", changes)
    assert errors["gradient"] > 10 * TARGET


@pytest.mark.skipif(ENVIRONMENT not in os.environ, reason=f"{ENVIRONMENT} names no checkout")
def test_the_checkout_agrees_everywhere():
    authors = Authors(os.environ[ENVIRONMENT])
    for case in CASES.values():
        ours = run_ours(case, authors.mv_unet, authors.mv_vae)
        assert max(compare(ours, authors.run(case)).values()) < TARGET
