"""Random and turntable cameras."""

import math
import random

import pytest
import threestudio
import torch
from threestudio.data.uncond import RandomCameraDataModuleConfig, RandomCameraIterableDataset
from threestudio.utils.config import parse_structured

STILL = {"camera_perturb": 0.0, "center_perturb": 0.0, "up_perturb": 0.0}


def dataset(**changes) -> RandomCameraIterableDataset:
    return RandomCameraIterableDataset(parse_structured(RandomCameraDataModuleConfig, changes))


def seeded_batch(seed: int = 0, **changes) -> dict:
    random.seed(seed)
    torch.manual_seed(seed)
    return dataset(**changes).collate(None)


def turntable(loader: str = "val", **changes) -> list[dict]:
    module = threestudio.find("random-camera-datamodule")(
        {"eval_height": 5, "eval_width": 5, **changes}
    )
    module.setup()
    return list(getattr(module, f"{loader}_dataloader")())


def test_batch_has_threestudios_keys_and_shapes():
    batch = seeded_batch(batch_size=3, height=4, width=6)
    shapes = {k: tuple(v.shape) for k, v in batch.items() if isinstance(v, torch.Tensor)}
    assert shapes == {
        **dict.fromkeys(["rays_o", "rays_d"], (3, 4, 6, 3)),
        **dict.fromkeys(["mvp_mtx", "proj_mtx", "c2w"], (3, 4, 4)),
        **dict.fromkeys(["camera_positions", "light_positions"], (3, 3)),
        **dict.fromkeys(["elevation", "azimuth", "camera_distances", "fovy"], (3,)),
    }
    assert (batch["height"], batch["width"]) == (4, 6)


def test_unperturbed_camera_stands_where_its_angles_say():
    batch = seeded_batch(batch_size=8, **STILL)
    elevation, azimuth = batch["elevation"].double(), batch["azimuth"].double()
    elevation, azimuth = torch.deg2rad(elevation), torch.deg2rad(azimuth)
    distance = batch["camera_distances"].double()
    x = distance * elevation.cos() * azimuth.cos()
    y = distance * elevation.cos() * azimuth.sin()
    expected = torch.stack([x, y, distance * elevation.sin()], dim=1)
    torch.testing.assert_close(batch["camera_positions"].double(), expected, atol=1e-6, rtol=0)


def test_camera_looks_along_its_minus_z_at_the_origin_with_z_up():
    batch = seeded_batch(batch_size=8, elevation_range=[-10, 60], **STILL)
    rotation, position = batch["c2w"][:, :3, :3], batch["c2w"][:, :3, 3]
    torch.testing.assert_close(-rotation[:, :, 2], -position / position.norm(dim=1, keepdim=True))
    torch.testing.assert_close(rotation.mT @ rotation, torch.eye(3).expand(8, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(8))
    torch.testing.assert_close(rotation[:, 2, 0], torch.zeros(8))  # x to the right is level
    assert (rotation[:, 2, 1] > 0).all()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_three_cameras_are_no_special_case(batch_size):
    """A cross product over the first axis of size 3, not the last, goes wrong for three."""
    batch = seeded_batch(batch_size=batch_size, **STILL)
    rotation = batch["c2w"][:, :3, :3]
    eye = torch.eye(3).expand(batch_size, 3, 3)
    torch.testing.assert_close(rotation.mT @ rotation, eye)


def test_middle_ray_goes_through_the_origin_and_the_edge_spans_the_field_of_view():
    batch = seeded_batch(batch_size=2, height=5, width=5, **STILL)
    origin, direction = batch["rays_o"], batch["rays_d"]
    towards = -origin[:, 2, 2] / origin[:, 2, 2].norm(dim=-1, keepdim=True)
    torch.testing.assert_close(direction[:, 2, 2], towards)
    torch.testing.assert_close(direction.norm(dim=-1), torch.ones(2, 5, 5))
    top, bottom = direction[:, 0, 2], direction[:, 4, 2]
    assert (top[:, 2] > bottom[:, 2]).all()
    # pixel centres of 5 rows lie at 4/5 of the half height
    half = torch.atan(0.8 * torch.tan(batch["fovy"] / 2))
    torch.testing.assert_close((top * bottom).sum(-1), torch.cos(2 * half))


def test_origin_projects_to_the_middle_and_a_point_above_to_the_upper_half():
    batch = seeded_batch(batch_size=4, elevation_range=[0, 20], **STILL)
    points = torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.1, 1.0]])
    clip = points @ batch["mvp_mtx"].mT
    torch.testing.assert_close(clip[:, 0, :2], torch.zeros(4, 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(clip[:, 0, 3], batch["camera_distances"])
    assert (clip[:, 1, 1] < 0).all()  # images have their first row on top


def test_draws_stay_in_their_ranges_and_azimuths_cover_the_turn():
    size = 64
    for seed in range(8):
        batch = seeded_batch(
            seed,
            batch_size=size,
            height=1,
            width=1,
            elevation_range=[-10, 45],
            camera_distance_range=[1.5, 2.0],
            fovy_range=[40, 60],
        )
        assert -10.001 <= batch["elevation"].min() and batch["elevation"].max() <= 45.001
        assert 1.5 <= batch["camera_distances"].min() and batch["camera_distances"].max() <= 2
        fovy_deg = batch["fovy"].rad2deg()
        assert 39.99 <= fovy_deg.min() and fovy_deg.max() <= 60.01
        stratum = ((batch["azimuth"] + 180) / 360 * size).floor()
        torch.testing.assert_close(stratum, torch.arange(size).float())


def test_half_of_the_batches_are_uniform_on_the_sphere():
    """The sine of the elevation is then uniform; uniform angles make it favour the pole."""
    means = []
    for seed in range(100):
        batch = seeded_batch(seed, batch_size=256, height=1, width=1, elevation_range=[0, 90])
        means.append(batch["elevation"].deg2rad().sin().mean().item())
    on_sphere = [m for m in means if m < (0.5 + 2 / math.pi) / 2]
    in_angle = [m for m in means if m >= (0.5 + 2 / math.pi) / 2]
    assert 35 < len(on_sphere) < 65
    assert sum(on_sphere) / len(on_sphere) == pytest.approx(0.5, abs=0.01)
    assert sum(in_angle) / len(in_angle) == pytest.approx(2 / math.pi, abs=0.01)


def test_one_seed_gives_the_same_cameras_and_another_seed_others():
    first, again, other = (seeded_batch(seed, batch_size=2) for seed in (4, 4, 5))
    assert all(torch.equal(first[k], again[k]) for k in ("c2w", "fovy", "light_positions"))
    assert not torch.equal(first["c2w"], other["c2w"])


def test_draws_are_threestudios_in_its_order():
    """The elevation's coin comes from `random`; torch draws the rest one after the other."""
    batch = seeded_batch(1, batch_size=2, height=1, width=1)
    random.seed(1)
    torch.manual_seed(1)
    uniform_angle = random.random() < 0.5
    u = torch.rand(2)
    azimuth = (torch.rand(2) + torch.arange(2)) / 2 * 360 - 180
    distance = torch.rand(2) * 0.5 + 1
    shift = torch.rand(2, 3) * 0.2 - 0.1
    torch.randn(2, 3), torch.randn(2, 3)  # centre, up
    fovy_deg = torch.rand(2) * 30 + 40
    light_distance = torch.rand(2) * 0.7 + 0.8
    light_noise = torch.randn(2, 3)
    assert uniform_angle
    torch.testing.assert_close(batch["elevation"], u * 100 - 10)
    torch.testing.assert_close(batch["azimuth"], azimuth)
    torch.testing.assert_close(batch["camera_distances"], distance)
    torch.testing.assert_close(batch["fovy"], fovy_deg.deg2rad())
    positions = batch["camera_positions"]
    torch.testing.assert_close((positions - shift).norm(dim=1), distance)
    direction = torch.nn.functional.normalize(positions + light_noise, dim=1)
    torch.testing.assert_close(batch["light_positions"], direction * light_distance[:, None])


def test_magic3d_lights_are_at_most_sixty_degrees_off_the_camera():
    batch = seeded_batch(
        batch_size=256, height=1, width=1, light_sample_strategy="magic3d", **STILL
    )
    light, camera = batch["light_positions"], batch["camera_positions"]
    cosine = torch.cosine_similarity(light, camera)
    assert 0.499 < cosine.min() < 0.55 and cosine.max() > 0.98
    assert 0.8 <= light.norm(dim=1).min() and light.norm(dim=1).max() <= 1.5


def test_resolution_follows_the_milestones():
    data = dataset(height=[4, 8], width=[6, 10], batch_size=[3, 2], resolution_milestones=[5])
    shapes = []
    for step in (0, 4, 5, 100):
        data.update_step(0, step)
        shapes.append(tuple(data.collate(None)["rays_o"].shape))
    assert shapes == [(3, 4, 6, 3), (3, 4, 6, 3), (2, 8, 10, 3), (2, 8, 10, 3)]


def test_progressive_view_opens_from_the_validation_camera():
    data = dataset(progressive_until=9, eval_elevation_deg=15.0, elevation_range=[-10, 90], **STILL)
    data.update_step(0, 0)
    batch = data.collate(None)
    torch.testing.assert_close(batch["elevation"], torch.tensor([15.0]))
    torch.testing.assert_close(batch["azimuth"], torch.zeros(1))
    data.update_step(0, 5)
    assert data.elevation_range == pytest.approx([2.5, 52.5])
    assert data.azimuth_range == pytest.approx([-90, 90])
    data.update_step(0, 10)
    assert data.elevation_range == pytest.approx([-10, 90])


def test_validation_views_differ_and_the_test_turn_closes():
    val = turntable("val", n_val_views=4)
    azimuths = torch.cat([view["azimuth"] for view in val])
    torch.testing.assert_close(azimuths, torch.tensor([0.0, 90.0, 180.0, 270.0]))
    assert [int(view["index"]) for view in val] == [0, 1, 2, 3]
    test = turntable("test", n_test_views=5, eval_elevation_deg=0.0, eval_camera_distance=2.0)
    torch.testing.assert_close(
        test[1]["camera_positions"], torch.tensor([[0.0, 2.0, 0.0]]), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(test[0]["c2w"], test[-1]["c2w"], atol=1e-5, rtol=0)
    predict = turntable("predict", n_test_views=5)
    assert len(predict) == 5


def test_evaluation_batches_have_the_training_keys_and_an_index():
    val, train = turntable("val")[0], seeded_batch(height=5, width=5)
    assert set(val) == set(train) | {"index"}
    for key, value in train.items():
        if isinstance(value, torch.Tensor):
            assert val[key].shape == value.shape, key
    assert (val["height"], val["width"]) == (5, 5)
    torch.testing.assert_close(val["light_positions"], val["camera_positions"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": [4, 8], "width": [4, 8], "batch_size": [1, 1]}, r"data.height=\[4, 8\]"),
        (
            {"height": [4, 8], "width": [4, 8, 9], "resolution_milestones": [3]},
            r"data.width=\[4, 8, 9\] has 3 entries",
        ),
        ({"light_sample_strategy": "sun"}, "data.light_sample_strategy='sun'"),
        ({"heigth": 3}, "heigth.*did you mean 'height'"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        dataset(**changes)


def test_milestones_without_lists_are_ignored_with_a_warning(caplog):
    with caplog.at_level("WARNING"):
        data = dataset(resolution_milestones=[5])
    assert "data.resolution_milestones has no effect" in caplog.text
    data.update_step(0, 50)
    assert data.height == 64
