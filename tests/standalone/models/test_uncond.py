"""The turntables of validation and test."""

import pytest
import torch
from threestudio.data.uncond import RandomCameraDataModuleConfig, RandomCameraDataset
from threestudio.utils.config import parse_structured


def turntable(split: str = "val", **changes) -> dict[str, torch.Tensor]:
    """All its views as one batch."""
    sizes = {"eval_height": 5, "eval_width": 7, "n_val_views": 8}
    cfg = parse_structured(RandomCameraDataModuleConfig, sizes | changes)
    dataset = RandomCameraDataset(cfg, split)
    return dataset.collate([dataset[index] for index in range(len(dataset))])


def test_views_have_threestudios_keys_and_shapes():
    views = turntable()
    shapes = {k: tuple(v.shape) for k, v in views.items() if isinstance(v, torch.Tensor)}
    assert shapes == {
        **dict.fromkeys(["rays_o", "rays_d"], (8, 5, 7, 3)),
        **dict.fromkeys(["mvp_mtx", "proj_mtx", "c2w"], (8, 4, 4)),
        **dict.fromkeys(["camera_positions", "light_positions"], (8, 3)),
        **dict.fromkeys(["elevation", "azimuth", "camera_distances", "fovy", "index"], (8,)),
    }
    assert (views["height"], views["width"]) == (5, 7)
    torch.testing.assert_close(views["light_positions"], views["camera_positions"])


def test_cameras_stand_where_their_angles_say():
    views = turntable(eval_elevation_deg=40.0, eval_camera_distance=2.0)
    elevation = torch.deg2rad(views["elevation"].double())
    azimuth = torch.deg2rad(views["azimuth"].double())
    x, y = elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin()
    expected = 2.0 * torch.stack([x, y, elevation.sin()], dim=1)
    torch.testing.assert_close(views["camera_positions"].double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("n_views", [1, 3, 8])  # a cross product along an axis of 3 goes wrong
def test_cameras_look_along_their_minus_z_at_the_origin_with_z_up(n_views):
    views = turntable(n_val_views=n_views)
    rotation, position = views["c2w"][:, :3, :3], views["c2w"][:, :3, 3]
    torch.testing.assert_close(-rotation[:, :, 2], -position / position.norm(dim=1, keepdim=True))
    torch.testing.assert_close(rotation.mT @ rotation, torch.eye(3).expand(n_views, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(n_views))
    torch.testing.assert_close(rotation[:, 2, 0], torch.zeros(n_views))  # x to the right is level
    assert (rotation[:, 2, 1] > 0).all()


def test_middle_ray_goes_through_the_origin_and_the_edge_spans_the_field_of_view():
    views = turntable()
    origin, direction = views["rays_o"], views["rays_d"]
    towards = -origin[:, 2, 3] / origin[:, 2, 3].norm(dim=-1, keepdim=True)
    torch.testing.assert_close(direction[:, 2, 3], towards)
    torch.testing.assert_close(direction.norm(dim=-1), torch.ones(8, 5, 7))
    top, bottom = direction[:, 0, 3], direction[:, 4, 3]
    assert (top[:, 2] > bottom[:, 2]).all()
    # pixel centres of 5 rows lie at 4/5 of the half height
    half = torch.atan(0.8 * torch.tan(views["fovy"] / 2))
    torch.testing.assert_close((top * bottom).sum(-1), torch.cos(2 * half))


def test_origin_projects_to_the_middle_and_a_point_above_to_the_upper_half():
    views = turntable()
    points = torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.1, 1.0]])
    clip = points @ views["mvp_mtx"].mT
    torch.testing.assert_close(clip[:, 0, :2], torch.zeros(8, 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(clip[:, 0, 3], views["camera_distances"])
    assert (clip[:, 1, 1] < 0).all()  # images have their first row on top


def test_validation_views_differ_and_the_test_turn_closes():
    val = turntable(n_val_views=4)
    torch.testing.assert_close(val["azimuth"], torch.tensor([0.0, 90.0, 180.0, 270.0]))
    assert val["index"].tolist() == [0, 1, 2, 3]
    test = turntable("test", n_test_views=5, eval_elevation_deg=0.0, eval_camera_distance=2.0)
    side = torch.tensor([0.0, 2.0, 0.0])
    torch.testing.assert_close(test["camera_positions"][1], side, atol=1e-6, rtol=0)
    torch.testing.assert_close(test["c2w"][0], test["c2w"][-1], atol=1e-5, rtol=0)
