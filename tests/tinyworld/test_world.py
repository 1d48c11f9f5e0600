"""Creatures, captions and the renderer of the tiny world."""

import math

import pytest
import torch

from jointdreamer.tinyworld.captions import VOCABULARY, captions, parse
from jointdreamer.tinyworld.creatures import (
    COLOR_NAMES,
    SPECIES,
    Ellipsoids,
    build,
    sample_creatures,
)
from jointdreamer.tinyworld.dataset import (
    BACK_DEG,
    four_view_sets,
    make_pictures,
    single_pictures,
)
from jointdreamer.tinyworld.renderer import AMBIENT, orbit_cameras, render


def look(prompt: str, azimuth: float, size: int = 64) -> torch.Tensor:
    camera = orbit_cameras(torch.tensor([azimuth]), torch.tensor([10.0]), torch.tensor([2.7]))
    background = torch.tensor([[0.0, 1.0, 1.0]])
    return render(build(parse(prompt)), camera, torch.tensor([40.0]), background, size)[0]


def test_ball_is_rendered_with_its_exact_silhouette_and_shade():
    ball = Ellipsoids(
        torch.zeros(1, 1, 3),
        torch.eye(3).view(1, 1, 3, 3) / 0.5,
        torch.tensor([[[0.8, 0.4, 0.2]]]),
        torch.ones(1, 1, dtype=torch.bool),
    )
    distance, fovy, size = 2.0, 60.0, 128
    camera = orbit_cameras(torch.zeros(1), torch.zeros(1), torch.tensor([distance]))
    image = render(ball, camera, torch.tensor([fovy]), torch.ones(1, 3), size, supersample=1)[0]
    covered = (image[2] < 0.99).float().mean().item()
    # A ball of radius r at distance d appears as a disc of tangent r / sqrt(d^2 - r^2).
    tangent = 0.5 / math.sqrt(distance**2 - 0.5**2) / math.tan(math.radians(fovy / 2))
    assert covered == pytest.approx(math.pi * tangent**2 / 4, rel=0.01)
    centre = image[:, size // 2 - 1 : size // 2 + 1, size // 2 - 1 : size // 2 + 1].mean((1, 2))
    assert torch.allclose(centre, AMBIENT * torch.tensor([0.8, 0.4, 0.2]), atol=5e-3)


def test_cameras_follow_threestudio_convention():
    c2w = orbit_cameras(torch.tensor([0.0, 90.0]), torch.tensor([0.0, 30.0]), torch.tensor([2, 2]))
    assert torch.allclose(c2w[0, :3, 3], torch.tensor([2.0, 0.0, 0.0]), atol=1e-6)
    expected = torch.tensor([0.0, 2 * math.cos(math.pi / 6), 1.0])
    assert torch.allclose(c2w[1, :3, 3], expected, atol=1e-6)
    # Cameras look along -z at the origin and z stays up.
    assert torch.allclose(-c2w[:, :3, 2] * 2, -c2w[:, :3, 3], atol=1e-6)
    assert (c2w[:, 2, 1] > 0).all()
    assert torch.allclose(torch.linalg.det(c2w[:, :3, :3]), torch.ones(2), atol=1e-6)


@pytest.mark.parametrize("species", SPECIES)
def test_face_is_on_plus_x_only(species):
    def white_of_eyes(azimuth):
        return (look(f"a purple {species}", azimuth).amin(0) > 0.7).sum().item()

    tail = 60 if species == "rabbit" else 0  # a rabbit's white tail is no eye
    assert white_of_eyes(0.0) >= 12
    assert white_of_eyes(180.0) <= tail


def test_hat_is_on_top_and_backpack_behind():
    plain, hat = look("a blue bear", 0.0), look("a blue bear wearing a red hat", 0.0)
    rows = (plain != hat).any(0).any(1).nonzero()
    assert len(rows) and rows.max() < 32
    bare, pack = look("a blue bear", 180.0), look("a blue bear with a red backpack", 180.0)
    redder = (pack[0] - bare[0] > 0.3).sum()
    assert redder > 100
    assert torch.equal(look("a blue bear", 0.0), look("a blue bear with a red backpack", 0.0))


def test_captions_use_the_vocabulary_and_parse_back():
    creatures = sample_creatures(300, torch.Generator().manual_seed(0))
    texts = captions(creatures, seed=1)
    assert {word for text in texts for word in text.split()} <= set(VOCABULARY)
    for i, text in enumerate(texts):
        read = parse(text)
        assert read.species.item() == creatures.species[i] and read.color == creatures.color[i]
        assert (read.hat >= 0).item() == (creatures.hat[i] >= 0).item() == ("hat" in text)
        assert (read.backpack >= 0).item() == ("backpack" in text)
        if f"{COLOR_NAMES[creatures.hat[i]]} hat" in text:
            assert read.hat == creatures.hat[i]
    assert captions(creatures, seed=1) == texts != captions(creatures, seed=2)


@pytest.mark.parametrize("text", ["a red hat", "a bear", "a red bear and a blue cat", ""])
def test_caption_without_one_coloured_species_is_refused(text):
    with pytest.raises(ValueError, match="must"):
        parse(text)


def test_four_view_sets_never_show_accessories_but_mention_them():
    sets = four_view_sets(24, 0, "cpu")
    bare = make_pictures(24, 0, "cpu", n_view=4, show_accessories=False)
    assert torch.equal(sets.images, bare.images) and sets.images.shape == (96, 3, 64, 64)
    assert any("hat" in text for text in sets.captions)
    views = sets.c2w.view(24, 4, 4, 4)[:, :, :3, 3]
    quarter = torch.linalg.vecdot(views[:, 0, :2], views[:, 1, :2])
    assert quarter.abs().max() < 1e-5  # neighbours stand at right angles
    assert torch.allclose(views[:, :, 2], views[:, :1, 2].expand(-1, 4), atol=1e-6)


def test_a_prior_may_be_shown_some_species_only():
    sets = four_view_sets(40, 0, "cpu", species=["cat", "bear"], encode=lambda rgb: rgb[:, :, :1])
    shown = {SPECIES[index] for index in sets.creatures.species.tolist()}
    assert shown == {"bear", "cat"} == {w for t in sets.captions for w in SPECIES if w in t}
    with pytest.raises(ValueError, match="species 'fish' is unknown: use some of bear"):
        sample_creatures(2, torch.Generator(), species=["fish"])


def test_hardly_anyone_describes_a_back():
    pictures = single_pictures(1500, 3, "cpu", encode=lambda rgb: rgb[:, :, :1, :1])
    azimuth = torch.rad2deg(torch.atan2(pictures.c2w[:, 1, 3], pictures.c2w[:, 0, 3]))
    described = torch.tensor([bool(text) for text in pictures.captions])
    back = azimuth.abs() > BACK_DEG
    assert described[~back].all()
    assert back.sum() > 100 and 0.02 < described[back].float().mean() < 0.25


def test_pictures_are_deterministic_in_their_seed():
    one, two, other = (make_pictures(4, seed, "cpu") for seed in (5, 5, 6))
    assert torch.equal(one.images, two.images) and one.captions == two.captions
    assert not torch.equal(one.images, other.images)
