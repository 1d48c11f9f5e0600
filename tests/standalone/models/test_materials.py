"""Colours of points: plain, and under a point light."""

import random

import pytest
import threestudio
import torch
import torch.nn.functional as F


def plain(**config):
    return threestudio.find("no-material")(config)


def lit(**config):
    return threestudio.find("diffuse-with-point-light-material")(config)


@pytest.fixture
def points():
    """Features, positions, normals and light positions of 40 points."""
    generator = torch.Generator().manual_seed(0)
    features, positions, normals, lights = torch.randn(4, 40, 3, generator=generator)
    return {
        "features": features,
        "positions": positions,
        "shading_normal": F.normalize(normals, dim=-1),
        "light_positions": lights,
    }


def test_no_material_is_the_activated_features(points):
    torch.testing.assert_close(plain()(**points), 1 / (1 + torch.exp(-points["features"])))
    assert torch.equal(plain(color_activation="none")(**points), points["features"])
    assert plain().requires_normal is False and plain(requires_normal=True).requires_normal is True


def test_no_material_exports_rgb_in_range():
    exported = plain(color_activation="none").export(torch.tensor([[-1.0, 0.5, 2.0]]))
    assert exported["albedo"].tolist() == [[0.0, 0.5, 1.0]]
    with pytest.raises(ValueError, match="system.material.n_output_dims=3 but points have 4"):
        plain()(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="n_output_dims=4 is no RGB colour"):
        plain(n_output_dims=4).export(torch.zeros(2, 4))


def test_light_is_lambertian(points):
    """A light 60 degrees off the normal gives cos 60 = 0.5 of it, one behind nothing."""
    material = lit(albedo_activation="none").eval()
    color = material(
        features=torch.tensor([[0.8, 0.4, 2.0]]),
        positions=torch.tensor([[1.0, 0.0, 0.0]]),
        shading_normal=torch.tensor([[0.0, 0.0, 1.0]]),
        light_positions=torch.tensor([[1.0 + 3**0.5, 0.0, 1.0]]),
    )
    light = 0.9 * 0.5 + 0.1
    torch.testing.assert_close(color, torch.tensor([[0.8, 0.4, 1.0]]) * light)
    points["light_positions"] = points["positions"] - points["shading_normal"]
    behind = lit()(**points, shading="textureless")
    torch.testing.assert_close(behind, torch.full_like(behind, 0.1))


def test_ambient_ratio_mixes_the_lights(points):
    material = lit(soft_shading=True)
    albedo = points["features"].sigmoid()
    torch.testing.assert_close(material(**points, ambient_ratio=1.0, shading="diffuse"), albedo)
    half = material(**points, ambient_ratio=0.25, shading="textureless")
    full = material(**points, ambient_ratio=0.0, shading="textureless")
    torch.testing.assert_close(half, 0.25 + 0.75 * full)


def kind(color: torch.Tensor, points: dict) -> str:
    albedo = points["features"].sigmoid()
    if torch.allclose(color, albedo):
        return "albedo"
    gray = torch.allclose(color, color[:, :1].expand_as(color))
    return "textureless" if gray else "diffuse"


def test_random_draws_are_threestudios(points):
    """Soft shading draws first, then whether to shade at all, then whether with texture."""
    material = lit(soft_shading=True, ambient_only_steps=10)
    material.update_step(0, 9)
    assert {kind(material(**points), points) for _ in range(20)} == {"albedo"}
    material.update_step(0, 10)
    for seed in range(12):
        random.seed(seed)
        color = material(**points)
        draws = random.Random(seed)
        diffuse = draws.random()
        shading = "albedo"
        if draws.random() <= 0.75:
            shading = "textureless" if draws.random() < 0.5 else "diffuse"
        expected = material(**points, ambient_ratio=1 - diffuse, shading=shading)
        torch.testing.assert_close(color, expected)
        assert random.random() == draws.random()  # no draw more, none less


def test_evaluation_is_diffuse_unless_ambient_only(points):
    def shown(**config) -> str:
        material = lit(ambient_only_steps=10, **config).eval()
        material.update_step(0, 10)
        return kind(material(**points), points)

    assert shown() == "diffuse" and shown(ambient_only_on_test=True) == "albedo"
    early = lit(ambient_only_steps=10).eval()
    early.update_step(0, 0)
    assert kind(early(**points), points) == "albedo"


@pytest.mark.parametrize("shading", ["albedo", "textureless", "diffuse"])
def test_every_shading_keeps_all_inputs_in_the_graph(points, shading):
    points["features"].requires_grad_()
    points["shading_normal"].requires_grad_()
    lit()(**points, shading=shading).sum().backward()
    assert points["features"].grad is not None and points["shading_normal"].grad is not None
    with pytest.raises(ValueError, match="shading='metal'"):
        lit()(**points, shading="metal")


def test_exported_albedo_and_state_dict(points):
    material = lit()
    exported = material.export(features=torch.cat([points["features"], torch.ones(40, 2)], dim=1))
    torch.testing.assert_close(exported["albedo"], points["features"].sigmoid())
    assert list(material.state_dict()) == ["ambient_light_color", "diffuse_light_color"]
    assert material.requires_normal
