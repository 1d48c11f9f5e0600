"""The view that the others are made, or judged, from."""

import pytest
import torch
from helpers.views import gradient, level_views
from threestudio_jointdreamer.energies.reference import reference_first, reorder


@pytest.mark.parametrize(
    ("name", "order"),
    [("first", [[0, 1, 2, 3]] * 2), ("frontal", [[3, 0, 1, 2], [1, 2, 3, 0]])],
)
def test_views_begin_at_the_reference_and_go_round(sd_prior, name, order):
    """The frontal view is nearest to azimuth 0 from either side."""
    azimuth = torch.tensor([[80.0, 170.0, 260.0, 350.0], [-95.0, -5.0, 85.0, 175.0]])
    views = level_views(sd_prior, azimuth=azimuth)
    found = reference_first(name, views)
    assert found.tolist() == order
    assert torch.equal(reorder(reorder(azimuth, found), found.argsort(dim=1)), azimuth)


@pytest.mark.parametrize("kind", ["zero123", "classifier"])
def test_a_random_reference_is_drawn_per_object_and_step(make_energy, sd_prior, kind):
    energy, views = make_energy(kind, reference="random"), level_views(sd_prior, n_object=3)
    drawn = set()
    for seed in range(8):
        torch.manual_seed(seed)
        still = gradient(energy(views), views).abs().amax(dim=(2, 3, 4)) == 0
        assert still.sum(dim=1).tolist() == [1, 1, 1]
        drawn.add(tuple(still.long().argmax(dim=1).tolist()))
    assert len(drawn) > 4 and any(len(set(choice)) > 1 for choice in drawn)
