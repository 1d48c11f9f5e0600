"""The classifier's groups of views: which creatures are kept from training, cameras, faces.

The denoised pictures too.
"""

import pytest
import torch

from jointdreamer.tinyworld.creatures import COLORS, SPECIES
from jointdreamer.tinyworld.denoised import Denoiser
from jointdreamer.tinyworld.view_groups import (
    FACE_OFFSET_DEG,
    FACES_APART_DEG,
    make_view_groups,
    sample_split,
)

N = 8


@pytest.fixture(scope="module")
def groups():
    return make_view_groups(N, 3, "cpu")


def azimuth_deg(c2w):
    return torch.rad2deg(torch.atan2(c2w[..., 1, 3], c2w[..., 0, 3]))


def wrapped(degrees):
    return (degrees + 180) % 360 - 180


def test_no_held_out_creature_has_the_species_and_colour_of_one_in_training():
    sides = []
    for held_out in (False, True):
        drawn = sample_split(1500, held_out, torch.Generator().manual_seed(0))
        assert len(drawn) == 1500
        sides.append(set(zip(drawn.species.tolist(), drawn.color.tolist(), strict=True)))
    training, held_out = sides
    assert not training & held_out
    assert len(training) == 64 and len(held_out) == 16
    for side in sides:
        assert {species for species, _ in side} == set(range(len(SPECIES)))
        assert {color for _, color in side} == set(range(len(COLORS)))


def test_groups_come_from_the_seed(groups):
    again = make_view_groups(N, 3, "cpu")
    assert all(torch.equal(groups[k], again[k]) for k in ("images", "janus", "c2w"))
    assert groups["images"].shape == groups["janus"].shape == (N, 4, 3, 64, 64)
    assert groups["images"].dtype == torch.uint8


def test_some_groups_are_rings_and_some_are_not(groups):
    steps = wrapped(azimuth_deg(groups["c2w"]).diff(dim=1))
    ring = (steps - 90).abs().amax(dim=1) < 0.01
    assert 0 < ring.sum() < N
    heights = groups["c2w"][:, :, 2, 3]
    assert (heights[ring].std(dim=1) < 1e-4).all() and (heights[~ring].std(dim=1) > 0.01).all()


def test_added_faces_look_near_their_cameras_and_are_apart(groups):
    face, azimuth = groups["face_deg"], azimuth_deg(groups["c2w"])
    offset = wrapped(face - azimuth)
    assert offset[face.isfinite()].abs().max() <= FACE_OFFSET_DEG + 0.01
    for row in face:
        faces = row[row.isfinite()]
        gaps = wrapped(faces[:, None] - faces).abs() + 360 * torch.eye(len(faces))
        assert gaps.min() >= FACES_APART_DEG - 0.01
    counts = face.isfinite().sum(dim=1)
    assert counts.max() > 2 and counts.min() <= 2  # some have two faces


def test_janus_views_differ_from_the_creature_and_backgrounds_do_not(groups):
    images, janus = groups["images"].float(), groups["janus"].float()
    change = (images - janus).abs().amax(dim=(2, 3, 4))
    seen_from_behind = azimuth_deg(groups["c2w"]).abs() > 120
    added = groups["face_deg"].isfinite() & seen_from_behind
    assert added.any() and (change[added] > 60).all()
    assert torch.equal(images[..., 0, 0], janus[..., 0, 0])


@pytest.fixture(scope="module")
def denoiser():
    return Denoiser("load/tiny/stable-diffusion", torch.device("cpu"))


def distance(a, b):
    return (a.float() - b.float()).abs().mean() / 255


def test_little_noise_leaves_pictures_and_much_leaves_what_the_caption_says(
    denoiser, groups, monkeypatch
):
    images, found = groups["images"][:4], {}
    for name, percent in (("little", 0.02), ("much", 0.9)):
        for side in ("MIN_PERCENT", "MAX_PERCENT"):
            monkeypatch.setattr(f"jointdreamer.tinyworld.denoised.{side}", percent)
        found[name] = denoiser.denoise(images, ["a red cat"] * 4, seed=0)
        assert found[name].shape == images.shape and found[name].dtype == torch.uint8
    assert distance(found["little"], images) < 0.02
    assert distance(found["much"], images) > 0.04
    other = denoiser.denoise(images, ["a blue dog"] * 4, seed=0)
    assert distance(found["much"], other) > 0.02


def test_denoised_groups_come_from_the_seed_and_leave_global_draws_alone(denoiser):
    before = torch.get_rng_state()
    first, second = (make_view_groups(2, 5, "cpu", denoiser=denoiser) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    for name in ("denoised_images", "denoised_janus"):
        assert torch.equal(first[name], second[name])
    assert not torch.equal(first["denoised_images"], first["denoised_janus"])
