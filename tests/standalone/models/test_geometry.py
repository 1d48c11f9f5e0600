"""The implicit volume: density, normals, features and mesh."""

import math

import pytest
import threestudio
import torch

GRID = {
    "otype": "HashGrid",
    "n_levels": 3,
    "n_features_per_level": 2,
    "log2_hashmap_size": 10,
    "base_resolution": 4,
    "per_level_scale": 1.6,
}
NORMAL_TYPES = ("analytic", "finite_difference", "finite_difference_laplacian")


def volume(**config):
    torch.manual_seed(0)
    geometry = threestudio.find("implicit-volume")({"pos_encoding_config": GRID, **config})
    with torch.no_grad():
        geometry.encoding.encoding.encoding.params.normal_(std=0.5)
    return geometry


def flat(**config):
    """A volume whose network says 0 everywhere, so that only the bias is left."""
    geometry = volume(**config)
    with torch.no_grad():
        geometry.density_network.layers[-1].weight.zero_()
    return geometry


def some_points(n=40, seed=1):
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8


@pytest.mark.parametrize(
    ("bias", "expected"),
    [
        ("blob_magic3d", lambda r: 8.0 * (1 - r / 0.4)),
        ("blob_dreamfusion", lambda r: 8.0 * math.e ** (-(r**2) / (2 * 0.4**2))),
        (-1.5, lambda r: torch.full_like(r, -1.5)),
    ],
)
def test_density_bias_and_activation(bias, expected):
    blob = {"density_bias": bias, "density_blob_scale": 8.0, "density_blob_std": 0.4}
    points = some_points()
    raw = expected(points.norm(dim=-1, keepdim=True))
    linear = flat(**blob, density_activation="none").forward_density(points)
    torch.testing.assert_close(linear, raw, rtol=1e-4, atol=1e-5)
    softplus = flat(**blob).forward_density(points)
    torch.testing.assert_close(softplus, (1 + raw.exp()).log(), rtol=1e-4, atol=1e-5)


def test_forward_gives_what_the_parts_give():
    geometry = volume(n_feature_dims=5, normal_type="pred")
    points = some_points().view(4, 10, 3)
    out = geometry(points, output_normal=True)
    assert out["density"].shape == (4, 10, 1)
    assert out["features"].shape == (4, 10, 5)
    torch.testing.assert_close(out["density"], geometry.forward_density(points))
    torch.testing.assert_close(out["features"], geometry.export(points)["features"])
    encoded = geometry.encoding((points.view(-1, 3) + 1) / 2)
    normal = torch.nn.functional.normalize(geometry.normal_network(encoded), dim=-1)
    torch.testing.assert_close(out["normal"], normal.view(4, 10, 3))
    assert out["shading_normal"] is out["normal"]
    assert "normal" not in geometry(points)
    assert "features" not in volume(n_feature_dims=0)(points)
    assert volume(n_feature_dims=0).export(points) == {}


@pytest.mark.parametrize("normal_type", NORMAL_TYPES)
def test_normals_of_a_blob_point_outwards(normal_type):
    geometry = flat(normal_type=normal_type)
    points = some_points()
    points = points[points.norm(dim=1) > 0.2]
    normal = geometry(points, output_normal=True)["normal"]
    expected = torch.nn.functional.normalize(points, dim=-1)
    assert (normal * expected).sum(-1).min() > 0.99


@pytest.mark.parametrize("bias", ["blob_magic3d", "blob_dreamfusion", 0.3])
@pytest.mark.parametrize("include_xyz", [False, True])
def test_analytic_normals_by_parts_are_autograds(bias, include_xyz):
    grid = {"otype": "HashGrid", "n_levels": 3, "log2_hashmap_size": 8, "include_xyz": include_xyz}
    settings = {"normal_type": "analytic", "density_bias": bias, "pos_encoding_config": grid}
    geometry = volume(radius=1.3, **settings).double()
    points = (torch.rand(50, 3, dtype=torch.double) * 2 - 1) * 1.3

    def gradients(points):
        geometry.zero_grad()
        out = geometry(points, output_normal=True)
        loss = (out["normal"] * torch.arange(3.0)).square().sum() + out["features"].sum()
        (loss + out["density"].square().mean()).backward()
        return [out["normal"].detach(), *(p.grad.clone() for p in geometry.parameters())]

    by_autograd = gradients(points.clone().requires_grad_())
    for found, expected in zip(gradients(points), by_autograd, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_analytic_normals_are_the_gradient_of_the_density():
    geometry = volume(normal_type="analytic").double()
    points = some_points(20).double()
    normal = geometry(points, output_normal=True)["normal"]
    eps = 1e-6
    difference = torch.stack(
        [
            geometry.forward_density(points - step) - geometry.forward_density(points + step)
            for step in eps * torch.eye(3, dtype=torch.float64)
        ],
        dim=-1,
    )[:, 0]
    expected = torch.nn.functional.normalize(difference, dim=-1)
    torch.testing.assert_close(normal, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("normal_type", NORMAL_TYPES)
def test_a_loss_on_normals_reaches_the_encoding_and_the_network(normal_type):
    geometry = volume(normal_type=normal_type).double()
    points = some_points().double()

    def loss():
        normal = geometry(points, output_normal=True)["normal"]
        return (normal * torch.tensor([0.2, -0.5, 1.0])).sum()

    parameters = [
        geometry.encoding.encoding.encoding.params,
        geometry.density_network.layers[0].weight,
        geometry.density_network.layers[2].weight,
    ]
    gradients = torch.autograd.grad(loss(), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn_like(parameter)
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                parameter += step * direction
            values.append(loss().item())
            with torch.no_grad():
                parameter -= step * direction
        expected = (values[0] - values[1]) / 2e-6
        assert abs(expected) > 1e-4
        assert (gradient * direction).sum().item() == pytest.approx(expected, rel=1e-4)


def test_no_gradients_are_left_behind_where_none_are_wanted():
    geometry = volume(normal_type="analytic")
    points = some_points()
    with torch.no_grad():
        out = geometry(points, output_normal=True)
    assert not any(value.requires_grad for value in out.values())
    assert not points.requires_grad
    torch.testing.assert_close(out["normal"], geometry(points, output_normal=True)["normal"])
    assert not points.requires_grad
    assert geometry(points[:0], output_normal=True)["normal"].shape == (0, 3)


def test_points_of_the_caller_get_gradients_if_they_ask_for_them():
    geometry = volume(normal_type="analytic")
    points = some_points().requires_grad_()
    geometry(points, output_normal=True)["density"].sum().backward()
    assert points.grad.abs().min() > 0


def test_state_dict_keys_are_threestudios():
    assert list(volume(normal_type="pred").state_dict()) == [
        "bbox",
        "encoding.encoding.encoding.params",
        *(f"density_network.layers.{i}.weight" for i in (0, 2)),
        *(f"feature_network.layers.{i}.weight" for i in (0, 2)),
        *(f"normal_network.layers.{i}.weight" for i in (0, 2)),
    ]


@pytest.mark.parametrize("coarse_to_fine", [True, False])
def test_the_mesh_of_a_blob_is_a_sphere_facing_outwards(coarse_to_fine):
    config = {"density_activation": "none", "isosurface_threshold": 4.0, "radius": 1.5}
    config["isosurface_chunk"] = 1000 if coarse_to_fine else 0
    geometry = flat(**config, isosurface_resolution=40, isosurface_coarse_to_fine=coarse_to_fine)
    mesh = geometry.isosurface()
    # 10 (1 - r / 0.5) = 4
    assert (mesh.v_pos.norm(dim=1) - 0.3).abs().max() < (2e-3 if coarse_to_fine else 1e-2)
    assert ((mesh.v_nrm * mesh.v_pos).sum(-1) / 0.3).min() > 0.9
    corners = mesh.v_pos[mesh.t_pos_idx]
    volume_inside = torch.linalg.det(corners).sum() / 6
    assert abs(volume_inside / (4 / 3 * math.pi * 0.3**3) - 1) < 0.06


def test_an_automatic_threshold_is_the_mean_of_the_positive_field():
    geometry = flat(density_bias="blob_dreamfusion", density_activation="none",
                    isosurface_threshold="auto", isosurface_resolution=24,
                    isosurface_coarse_to_fine=False)  # fmt: skip
    ticks = torch.linspace(-1, 1, 24)
    grid = torch.stack(torch.meshgrid(ticks, ticks, ticks, indexing="ij"), dim=-1)
    mean = geometry.forward_density(grid).mean().item()
    radius = 0.5 * math.sqrt(-2 * math.log(mean / 10))
    assert abs(geometry.isosurface().v_pos.norm(dim=1).mean() - radius) < 0.01


def test_no_surface_is_said_with_the_remedy():
    geometry = flat(isosurface_threshold=1e4, isosurface_resolution=8)
    with pytest.raises(ValueError, match="isosurface_threshold=1e.04: the field lies between"):
        geometry.isosurface()
    with pytest.raises(ValueError, match="isosurface_method=mt.*mc-cpu"):
        flat(isosurface_method="mt").isosurface()
    with pytest.raises(ValueError, match="isosurface=false"):
        flat(isosurface=False).isosurface()


@pytest.mark.parametrize("coarse_to_fine", [True, False])
def test_a_surface_of_outliers_alone_is_said_with_the_key(coarse_to_fine):
    geometry = flat(
        density_activation="none",
        isosurface_threshold=4.0,
        isosurface_resolution=16,
        isosurface_coarse_to_fine=coarse_to_fine,
        isosurface_outlier_n_faces_threshold=10**6,
    )
    with pytest.raises(ValueError, match="isosurface_outlier_n_faces_threshold=1000000"):
        geometry.isosurface()


@pytest.mark.parametrize(("radius", "is_open"), [(0.25, True), (0.4, False)])
def test_a_mesh_that_is_open_at_the_border_is_said_once(caplog, radius, is_open):
    blob = {"density_activation": "none", "isosurface_threshold": 4.0}  # of radius 0.3
    with caplog.at_level("WARNING"):
        flat(**blob, radius=radius, isosurface_resolution=16).isosurface()
    assert caplog.text.count("system.geometry.radius") == is_open


def test_normals_without_a_type_are_refused():
    with pytest.raises(ValueError, match="normal_type is null"):
        volume(normal_type=None)(some_points(), output_normal=True)
