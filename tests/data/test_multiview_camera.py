"""Groups of views: geometry against closed forms, batches as functions of (seed, index)."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import threestudio
import torch
from threestudio_jointdreamer.data.multiview_camera import MultiviewCameraDataModule

BASE = {"n_view": 4, "batch_size": 8, "height": 4, "width": 6, "eval_height": 8, "eval_width": 8}


def module(seed: int = 0, **changes) -> MultiviewCameraDataModule:
    torch.manual_seed(seed)
    made = threestudio.find("jointdreamer-multiview-camera-datamodule")({**BASE, **changes})
    made.setup()
    return made


def batch(index: int = 0, seed: int = 0, **changes) -> dict:
    return module(seed, **changes).train_dataset.collate(index)


def test_batch_has_threestudios_keys_and_shapes():
    made = batch()
    shapes = {k: tuple(v.shape) for k, v in made.items() if isinstance(v, torch.Tensor)}
    expected = dict.fromkeys(("rays_o", "rays_d"), (8, 4, 6, 3))
    expected |= dict.fromkeys(("mvp_mtx", "proj_mtx", "c2w"), (8, 4, 4))
    expected |= dict.fromkeys(("camera_positions", "light_positions"), (8, 3))
    expected |= dict.fromkeys(("elevation", "azimuth", "camera_distances", "fovy"), (8,))
    assert shapes == expected
    assert (made["height"], made["width"]) == (4, 6)


@pytest.mark.parametrize(
    ("n_view", "span", "offsets"),
    [
        (4, 360, [0, 90, 180, 270]),
        (3, 360, [0, 120, 240]),
        (4, 90, [0, 30, 60, 90]),
        (2, 45, [0, 45]),
        (1, 360, [0]),
        (1, 30, [0]),
    ],
)
def test_views_are_spread_evenly_over_the_span(n_view, span, offsets):
    azimuth = batch(n_view=n_view, batch_size=2 * n_view, azimuth_span=span)["azimuth"]
    for group in azimuth.view(2, n_view):
        torch.testing.assert_close(group - group[0], torch.tensor(offsets, dtype=torch.float32))


def test_an_objects_views_share_elevation_distance_and_field_of_view():
    made = batch(elevation_range=[0, 60], fovy_range=[20, 60])
    for key in ("elevation", "camera_distances", "fovy"):
        groups = made[key].view(2, 4)
        assert (groups == groups[:, :1]).all() and groups[0, 0] != groups[1, 0]


def test_perturbations_are_shared_by_an_objects_views():
    shaken = batch(camera_perturb=0.1, center_perturb=0.1, up_perturb=0.1)
    exact = batch(camera_perturb=0.0, center_perturb=0.0, up_perturb=0.0)
    shift = (shaken["camera_positions"] - exact["camera_positions"]).view(2, 4, 3)
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), atol=1e-5, rtol=0)
    assert 0 < shift.abs().max() <= 0.1 and not torch.equal(shift[0], shift[1])


def test_without_perturbation_every_camera_looks_at_the_origin_from_its_azimuth():
    made = batch(camera_perturb=0.0, center_perturb=0.0, up_perturb=0.0)
    r, el, az = made["camera_distances"], made["elevation"].deg2rad(), made["azimuth"].deg2rad()
    expected = r[:, None] * torch.stack([el.cos() * az.cos(), el.cos() * az.sin(), el.sin()], dim=1)
    torch.testing.assert_close(made["camera_positions"], expected)
    torch.testing.assert_close(made["c2w"][:, :3, 3], expected)
    back, right = made["c2w"][:, :3, 2], made["c2w"][:, :3, 0]
    torch.testing.assert_close(back, expected / r[:, None])  # OpenGL: it looks along -z
    torch.testing.assert_close(right, torch.stack([-az.sin(), az.cos(), 0 * az], dim=1))
    torch.testing.assert_close(torch.linalg.det(made["c2w"]), torch.ones(8))


def test_rays_leave_the_camera_through_the_right_pixels():
    made = batch(height=4, width=4, camera_perturb=0.0, center_perturb=0.0, up_perturb=0.0)
    axis = -made["c2w"][:, :3, 2]
    corner = (made["rays_d"][:, 0, 0] * axis).sum(-1)
    half = torch.tan(made["fovy"] / 2) * 0.75  # pixel centres: 3/4 of the way to the edge
    torch.testing.assert_close(corner, 1 / (1 + 2 * half**2).sqrt())
    assert (made["rays_d"][:, 0, 0] * made["c2w"][:, :3, 1]).sum(-1).min() > 0  # row 0 is the top
    torch.testing.assert_close(made["rays_o"][:, 1, 2], made["camera_positions"])


def test_mvp_projects_the_centre_to_the_middle_of_the_picture():
    made = batch(camera_perturb=0.0, center_perturb=0.0, up_perturb=0.0)
    projected = made["mvp_mtx"] @ torch.tensor([0.0, 0, 0, 1])
    torch.testing.assert_close(projected[:, :2], torch.zeros(8, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(projected[:, 3], made["camera_distances"])


def test_relative_radius_keeps_the_size_of_the_object_in_the_picture():
    made = batch(fovy_range=[15, 60], camera_distance_range=[0.9, 0.9], relative_radius=True)
    torch.testing.assert_close(
        made["camera_distances"] * torch.tan(made["fovy"] / 2), torch.full((8,), 0.9)
    )
    plain = batch(camera_distance_range=[0.9, 0.9], relative_radius=False)
    assert (plain["camera_distances"] == 0.9).all()


def test_zoom_changes_the_field_of_view_but_not_the_distance():
    settings = {"fovy_range": [40, 40], "camera_distance_range": [1, 1]}
    near = batch(zoom_range=[0.5, 0.5], **settings)
    torch.testing.assert_close(near["fovy"], torch.full((8,), math.radians(20)))
    assert torch.equal(near["camera_distances"], batch(**settings)["camera_distances"])


def test_views_of_many_objects_cover_the_whole_circle_evenly():
    dataset = module(n_view=4, batch_size=4).train_dataset
    first = torch.cat([dataset.collate(i)["azimuth"][:1] for i in range(400)]) % 360
    counts = torch.histc(first, bins=4, min=0, max=360)
    assert (counts - 100).abs().max() < 40  # 4.6 sigma of a binomial


def test_one_batch_covers_the_view_spacing_evenly():
    places = batch(batch_size=32)["azimuth"].view(8, 4)[:, 0] % 90
    assert sorted((places // (90 / 8)).int().tolist()) == list(range(8))


def test_azimuth_range_limits_where_an_object_is_seen_from():
    seen = [batch(i, azimuth_range=[-30, 30], n_view=1, batch_size=4)["azimuth"] for i in range(50)]
    assert -30 <= torch.cat(seen).min() < -25 and 25 < torch.cat(seen).max() <= 30


def test_elevation_is_half_uniform_in_angle_half_on_the_sphere():
    dataset = module(elevation_range=[0, 90], n_view=1, batch_size=16).train_dataset
    above = torch.cat([dataset.collate(i)["elevation"] for i in range(250)]) > 60
    expected = 0.5 * (1 / 3) + 0.5 * (1 - math.sin(math.radians(60)))
    assert above.float().mean().item() == pytest.approx(expected, abs=0.04)


@pytest.mark.parametrize("strategy", ["dreamfusion", "magic3d"])
def test_lights_are_within_their_distances_and_at_one_place_relative_to_the_cameras(strategy):
    made = batch(
        light_sample_strategy=strategy,
        light_distance_range=[0.8, 1.5],
        light_position_perturb=0.0,
        camera_perturb=0.0,
    )
    light = made["light_positions"]
    assert (light.norm(dim=-1) >= 0.8).all() and (light.norm(dim=-1) <= 1.5).all()
    directions = torch.nn.functional.normalize(light, dim=-1)
    toward = torch.nn.functional.normalize(made["camera_positions"], dim=-1)
    angle = torch.rad2deg((directions * toward).sum(-1).clamp(-1, 1).acos()).view(2, 4)
    torch.testing.assert_close(angle, angle[:, :1].expand(2, 4), atol=0.05, rtol=0)
    assert (angle <= (0.05 if strategy == "dreamfusion" else 60.05)).all()


def test_progressive_ranges_open_with_the_batch_index():
    settings = {"progressive_until": 9, "elevation_range": [-10, 90], "eval_elevation_deg": 15.0}
    early = torch.stack([batch(0, seed=s, **settings)["elevation"] for s in range(40)])
    assert (early - 15).abs().max() <= 7.5 + 1e-4  # a tenth of the way to -10 and 90
    late = torch.stack([batch(9, seed=s, **settings)["elevation"] for s in range(40)])
    assert late.max() > 60


def test_a_batch_depends_on_seed_and_index_alone_and_leaves_the_global_generators_alone():
    first = batch(5, seed=3)
    dataset = module(3).train_dataset
    torch.manual_seed(99), np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    dataset.collate(4)
    again = dataset.collate(5)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert all(torch.equal(first[k], again[k]) for k in first if torch.is_tensor(first[k]))
    assert not torch.equal(batch(6, seed=3)["azimuth"], first["azimuth"])
    assert not torch.equal(batch(5, seed=4)["azimuth"], first["azimuth"])


def test_resolution_changes_with_the_very_batch_of_the_milestone():
    settings = {
        "batch_size": [8, 4, 4],
        "height": [4, 6, 8],
        "width": 5,
        "resolution_milestones": [2, 3],
    }
    dataset = module(**settings).train_dataset
    shapes = [tuple(dataset.collate(i)["rays_o"].shape) for i in range(5)]
    assert shapes == [(8, 4, 5, 3)] * 2 + [(4, 6, 5, 3)] + [(4, 8, 5, 3)] * 2


class Recorder(pl.LightningModule):
    """Trains nothing and notes the azimuths it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[int, tuple] = {}

    def training_step(self, batch, batch_idx):
        self.seen[self.global_step] = (batch["height"], batch["azimuth"].tolist())
        return self.weight**2

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(tmp_path, steps: int, ckpt_path=None, **settings) -> tuple[Recorder, pl.Trainer]:
    recorder = Recorder()
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    settings = {"height": [4, 6], "width": 4, "resolution_milestones": [3], **settings}
    trainer.fit(recorder, datamodule=module(2, **settings), ckpt_path=ckpt_path)
    return recorder, trainer


def test_a_trainer_gets_batch_i_at_step_i_resumed_or_not(tmp_path):
    whole, _ = fit(tmp_path, 6)
    assert [whole.seen[step][0] for step in range(6)] == [4, 4, 4, 6, 6, 6]
    _, trainer = fit(tmp_path, 2)
    trainer.save_checkpoint(tmp_path / "at2.ckpt")
    resumed, _ = fit(tmp_path, 6, ckpt_path=tmp_path / "at2.ckpt")
    assert resumed.seen == {step: whole.seen[step] for step in range(2, 6)}


def test_validation_and_test_views_are_threestudios_turntables():
    made = module(n_val_views=4, n_test_views=5)
    val = [float(made.val_dataset[i]["azimuth"]) for i in range(4)]
    test = [float(made.test_dataset[i]["azimuth"]) for i in range(5)]
    assert val == [0, 90, 180, 270] and test == [0, 90, 180, 270, 360]
    assert next(iter(made.val_dataloader()))["rays_o"].shape[0] == 1
    assert len(list(made.predict_dataloader())) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 6}, r"data\.batch_size=6 is not a multiple of data\.n_view=4: use 4 or 8"),
        ({"batch_size": 2}, r"data\.batch_size=2 .*: use 4\."),
        (
            {"batch_size": [8, 6], "resolution_milestones": [10]},
            r"data\.batch_size=6 is not a multiple",
        ),
        ({"n_view": 0}, r"data\.n_view=0"),
        ({"height": [4, 8]}, r"data\.height=\[4, 8\] has 2 entries .*makes 1 stages"),
        ({"resolution_milestones": [5, 2]}, r"resolution_milestones=\[5, 2\] must increase"),
        ({"width": 0}, r"data\.width=0"),
        ({"width": 6.5}, r"data\.width=6\.5"),
        ({"azimuth_span": 0}, r"data\.azimuth_span=0"),
        ({"azimuth_span": 400}, r"data\.azimuth_span=400"),
        ({"elevation_range": [30, 0]}, r"data\.elevation_range=\[30"),
        ({"fovy_range": [20, 190]}, r"data\.fovy_range"),
        ({"light_sample_strategy": "sun"}, r"light_sample_strategy='sun'.*dreamfusion, magic3d"),
        ({"n_views": 4}, "n_views"),
    ],
)
def test_mistakes_are_named_when_the_module_is_made(changes, message):
    with pytest.raises(ValueError, match=message):
        module(**changes)


def test_rays_are_made_on_the_trainers_device():
    data = module(height=6, width=6)
    expected = data.train_dataset.collate(3)
    data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")))
    made = data.train_dataset.collate(3)
    assert {k for k, v in made.items() if torch.is_tensor(v) and v.is_meta} == {"rays_o", "rays_d"}
    assert made["rays_d"].shape == expected["rays_d"].shape
    assert torch.equal(made["mvp_mtx"], expected["mvp_mtx"])
