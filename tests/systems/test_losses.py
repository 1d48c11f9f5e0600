"""The regularisers against their formulas, worked by hand."""

import math
from types import SimpleNamespace

import pytest
import torch
from threestudio_jointdreamer.systems.losses import (
    REGULARISERS,
    opaque,
    orientation,
    sparsity,
    z_variance,
)


def test_orientation_counts_only_normals_that_face_away():
    out = {
        "normal": torch.tensor([[0.0, 0, 1], [0, 0, -1], [0, 0.6, 0.8]]),
        "t_dirs": torch.tensor([[0.0, 0, 1]]).expand(3, 3),  # the camera looks along +z
        "weights": torch.tensor([[0.5], [0.3], [0.2]]),
        "opacity": torch.tensor([0.8, 0.2, 0.0]).view(1, 3, 1, 1),  # two rays see something
    }
    assert orientation(out).item() == pytest.approx((0.5 * 1 + 0.2 * 0.64) / 2)


def test_orientation_does_not_move_the_weights():
    weights = torch.tensor([[0.5]], requires_grad=True)
    normal = torch.tensor([[0.0, 0, 1]], requires_grad=True)
    opacity = torch.ones(1, 1, 1, 1)
    out = {"normal": normal, "t_dirs": torch.tensor([[0.0, 0, 1]]), "weights": weights}
    orientation({**out, "opacity": opacity}).backward()
    assert weights.grad is None and normal.grad[0, 2].item() == pytest.approx(1.0)


def test_an_empty_render_costs_nothing_and_is_not_nan():
    out = {"normal": torch.zeros(0, 3), "t_dirs": torch.zeros(0, 3), "weights": torch.zeros(0, 1)}
    assert orientation(out | {"opacity": torch.zeros(1, 2, 2, 1)}).item() == 0.0
    assert z_variance({"opacity": torch.zeros(3), "z_variance": torch.ones(3)}).item() == 0.0


def test_orientation_without_normals_names_the_key():
    with pytest.raises(ValueError, match=r"system\.loss\.lambda_orient"):
        orientation({"opacity": torch.ones(1)})


def test_sparsity_is_the_mean_smoothed_opacity():
    opacity = torch.tensor([0.0, math.sqrt(0.24)])
    assert sparsity({"opacity": opacity}).item() == pytest.approx((0.1 + 0.5) / 2)


def test_opaque_is_binary_entropy_in_nats():
    assert opaque({"opacity": torch.tensor([0.5])}).item() == pytest.approx(math.log(2))
    assert opaque({"opacity": torch.tensor([0.0, 1.0])}).item() == pytest.approx(
        -(0.999 * math.log(0.999) + 0.001 * math.log(0.001)), rel=1e-4
    )


def test_z_variance_is_averaged_over_rays_that_hit():
    out = {
        "opacity": torch.tensor([0.9, 0.6, 0.4]),
        "z_variance": torch.tensor([1.0, 2.0, 50.0]),
    }
    assert z_variance(out).item() == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("name", "value"), [("normal_consistency", 2.0), ("laplacian_smoothness", 3.0)]
)
def test_losses_of_a_mesh_are_the_meshs_own(name, value):
    mesh = SimpleNamespace(normal_consistency=lambda: 2.0, laplacian=lambda: 3.0)
    assert REGULARISERS[name]({"mesh": mesh}) == value


@pytest.mark.parametrize("name", ["normal_consistency", "laplacian_smoothness"])
def test_losses_of_a_mesh_without_one_name_the_key_and_the_renderer(name):
    with pytest.raises(ValueError, match=rf"system\.loss\.lambda_{name} .*nvdiff-rasterizer"):
        REGULARISERS[name]({"opacity": torch.ones(1)})
