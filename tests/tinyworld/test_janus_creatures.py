"""Faces where we want them on the tiny world's creatures."""

from dataclasses import replace

import pytest
import torch

from jointdreamer.tinyworld.captions import parse
from jointdreamer.tinyworld.creatures import SPECIES, build, sample_creatures
from jointdreamer.tinyworld.janus_creatures import (
    FACE_PARTS,
    FACE_SLOTS,
    parts_of_a_face,
    with_faces,
)
from jointdreamer.tinyworld.renderer import orbit_cameras, render


@pytest.fixture(scope="module")
def one_of_each():
    creatures = sample_creatures(len(SPECIES), torch.Generator().manual_seed(0))
    return replace(creatures, species=torch.arange(len(SPECIES)))


def look(objects, azimuth: float, size: int = 48) -> torch.Tensor:
    n = len(objects.center)
    camera = orbit_cameras(torch.full((n,), azimuth), torch.full((n,), 10.0), torch.full((n,), 2.7))
    return render(objects, camera, torch.full((n,), 40.0), torch.full((n, 3), 0.5), size, 1)


def pupils(images: torch.Tensor) -> torch.Tensor:
    """How many pixels of each picture are nearly black."""
    return (images.amax(dim=1) < 0.1).sum(dim=(1, 2))


def test_a_face_in_front_is_the_ordinary_creature(one_of_each):
    for azimuth in (0.0, 70.0):
        expected = look(build(one_of_each), azimuth)
        assert torch.equal(look(with_faces(one_of_each, [0.0]), azimuth), expected)


@pytest.mark.parametrize("azimuth", [90.0, 180.0, 250.0])
def test_a_planted_face_looks_where_it_was_planted(azimuth):
    # no clothes and no black nose: the only black is in the eyes
    rabbit = parse("a white rabbit")
    planted = with_faces(rabbit, [azimuth])
    in_front = pupils(look(build(rabbit), 0.0))
    assert pupils(look(planted, azimuth)) > 0.7 * in_front
    assert pupils(look(planted, azimuth + 180.0)) == 0


def test_every_species_loses_its_face(one_of_each):
    bare = replace(
        one_of_each,
        color=torch.full_like(one_of_each.color, 9),
        hat=torch.full_like(one_of_each.hat, -1),
        backpack=torch.full_like(one_of_each.backpack, -1),
    )
    assert (pupils(look(build(bare), 0.0)) > 0).all()
    assert (pupils(look(with_faces(bare, []), 0.0)) == 0).all()


def test_rows_give_each_creature_its_own_faces(one_of_each):
    nan = float("nan")
    rows = torch.tensor([[0.0, 120.0], [90.0, nan], [nan, nan]])
    planted = with_faces(one_of_each[:3], rows)
    for index, faces in enumerate(([0.0, 120.0], [90.0], [])):
        alone = with_faces(one_of_each[[index]], faces)
        for azimuth in (0.0, 90.0, 120.0):
            assert torch.equal(look(planted[[index]], azimuth), look(alone, azimuth))


def test_parts_of_a_face_are_named_in_the_order_of_the_slots(one_of_each):
    kinds = parts_of_a_face(one_of_each)
    assert kinds.shape == (len(SPECIES), FACE_SLOTS)
    duck = kinds[SPECIES.index("duck")]
    counts = [(duck == FACE_PARTS.index(name)).sum().item() for name in FACE_PARTS]
    assert counts == [2, 2, 1, 0]  # two eyes, two pupils, a beak, no nose


def test_rows_that_do_not_match_the_creatures_are_refused(one_of_each):
    with pytest.raises(ValueError, match="2, 3.* for 8 creatures"):
        with_faces(one_of_each, torch.zeros(2, 3))
