"""Pairs with known answers: what each kind is made of, and how soft pictures become."""

import math

import pytest
import torch
from threestudio_jointdreamer.priors.pair_classifier import relative_pose

from jointdreamer.pair_training.pairs import (
    JANUS,
    OTHER,
    POSE,
    SAME,
    form_pairs,
    soften,
)
from jointdreamer.testing.cameras import camera_ring

N_OBJECT, N_VIEW, PER_OBJECT = 6, 4, 12


def labelled_features(offset=0.0):
    """Features [B V 2] that say whose they are: object and view."""
    rows = torch.arange(N_OBJECT * N_VIEW).view(N_OBJECT, N_VIEW)
    return torch.stack([rows // N_VIEW, rows % N_VIEW], dim=2).float() + offset


def rings():
    return camera_ring(N_OBJECT, N_VIEW)["c2w"].unflatten(0, (N_OBJECT, N_VIEW))


def angle_deg(first, second):
    """Between the rotations of two flattened 4x4 matrices."""
    first, second = first.view(-1, 4, 4)[:, :3, :3], second.view(-1, 4, 4)[:, :3, :3]
    trace = (first * second).sum(dim=(1, 2))
    return torch.rad2deg(torch.acos(((trace - 1) / 2).clamp(-1, 1)))


def true_pose(pairs, c2w):
    """Of the cameras that took the two pictures."""
    first, second = pairs.first.long(), pairs.second.long()
    return relative_pose(c2w[first[:, 0], first[:, 1]], c2w[second[:, 0], second[:, 1]])


@pytest.fixture
def pairs():
    generator = torch.Generator().manual_seed(0)
    return form_pairs(labelled_features(), rings(), generator=generator)


def test_half_of_the_pairs_are_all_ordered_pairs_of_an_object(pairs):
    same = pairs.kind == SAME
    assert same.sum() == N_OBJECT * PER_OBJECT == (~same).sum()
    first, second = pairs.first[same], pairs.second[same]
    assert torch.equal(first[:, 0], second[:, 0])
    assert (first[:, 1] != second[:, 1]).all()
    assert len(torch.cat([first, second], dim=1).unique(dim=0)) == N_OBJECT * PER_OBJECT
    assert torch.allclose(pairs.pose[same], true_pose(pairs, rings())[same])


def test_every_kind_of_negative_occurs(pairs):
    counts = torch.bincount(pairs.kind, minlength=4)
    assert (counts[[OTHER, POSE, JANUS]] > N_OBJECT).all()


def test_another_object_has_the_right_pose(pairs):
    other = pairs.kind == OTHER
    assert (pairs.first[other, 0] != pairs.second[other, 0]).all()
    assert torch.allclose(pairs.pose[other], true_pose(pairs, rings())[other])


def test_a_wrong_pose_is_wrong_by_a_lot_and_the_object_right(pairs):
    wrong = pairs.kind == POSE
    assert torch.equal(pairs.first[wrong, 0], pairs.second[wrong, 0])
    error = angle_deg(pairs.pose[wrong], true_pose(pairs, rings())[wrong])
    assert error.min() > 29.9


def test_without_janus_pictures_a_view_is_repeated_at_another_pose(pairs):
    janus = pairs.kind == JANUS
    assert torch.equal(pairs.first[janus], pairs.second[janus])
    identity = torch.eye(4).flatten().expand(int(janus.sum()), 16)
    assert angle_deg(pairs.pose[janus], identity).min() > 29.9


def test_janus_pairs_show_two_faces_that_are_apart():
    face = torch.tensor([0.0, 90.0, 10.0, math.nan]).expand(N_OBJECT, N_VIEW)
    pairs = form_pairs(labelled_features(), rings(), labelled_features(100.0), face)
    janus = pairs.kind == JANUS
    assert janus.any()
    views = torch.stack([pairs.first[janus, 1], pairs.second[janus, 1]], dim=1) - 100
    shown = {tuple(sorted(pair)) for pair in views.tolist()}
    assert shown <= {(0, 1), (1, 2)}  # 0 and 2 show faces 10 degrees apart, 3 has none
    assert torch.equal(pairs.first[janus, 0], pairs.second[janus, 0])
    assert (pairs.first[~janus] < 100).all() and (pairs.second[~janus] < 100).all()


def test_views_too_near_each_other_differ_by_object_only():
    c2w = rings()[:, :1].expand(-1, N_VIEW, -1, -1)
    pairs = form_pairs(labelled_features(), c2w)
    assert set(pairs.kind.tolist()) == {SAME, OTHER}
    assert (pairs.kind == OTHER).sum() == N_OBJECT * PER_OBJECT


def test_softening_keeps_range_and_some_pictures_as_they_are():
    torch.manual_seed(0)
    images = (torch.rand(64, 3, 16, 16) > 0.5).float()
    soft = soften(images)
    change = (soft - images).abs().amax(dim=(1, 2, 3))
    assert soft.shape == images.shape and soft.min() >= 0 and soft.max() <= 1
    assert 4 < (change < 1e-6).sum() < 32  # a quarter is expected
    assert change.max() > 0.3
