"""Scenes of two volumes, and the report on scenes."""

import json

import pytest
import threestudio
import torch

from benchmarks import scenes
from benchmarks.baselines import register
from benchmarks.scenes import summary
from jointdreamer.testing.cameras import camera_ring
from jointdreamer.testing.prompts import RandomPrompts
from jointdreamer.tinyworld.scenes import PLACES, SCALE

GEOMETRY = {
    "radius": 1.0,
    "normal_type": None,
    "density_bias": "blob_magic3d",
    "density_blob_scale": 10.0,
    "density_blob_std": 0.5,
    "pos_encoding_config": {
        "otype": "HashGrid",
        "n_levels": 2,
        "n_features_per_level": 2,
        "log2_hashmap_size": 8,
        "base_resolution": 4,
        "per_level_scale": 2.0,
    },
}


def test_a_composed_volume_is_each_of_its_volumes_at_its_place():
    register()
    torch.manual_seed(0)
    scene = threestudio.find("composed-volume")(GEOMETRY)
    local = 0.3 * torch.randn(50, 3)
    for volume, place in zip(scene.volumes, PLACES, strict=True):
        points = SCALE * local + torch.tensor(place)
        mine = (points[:, 1] * place[1] > 0.25)[:, None]  # out of the other's box
        expected = volume(local)
        found = scene(points)
        assert mine.sum() > 5
        for name, factor in (("density", 1 / SCALE), ("features", 1.0)):
            assert torch.allclose((found[name] * mine), factor * expected[name] * mine, atol=1e-4)
    far = torch.tensor([[0.0, 0.0, 0.9], [0.9, 0.45, 0.0]])  # in no box
    assert torch.equal(scene.forward_density(far), torch.zeros(2, 1))
    middle = torch.zeros(1, 3)
    at = [-torch.tensor([place]) / SCALE for place in PLACES]
    both = [scene.volumes[i].forward_density(at[i]) for i in range(2)]
    torch.testing.assert_close(scene.forward_density(middle), sum(both) / SCALE)


def test_the_optimizers_groups_hold_the_parameters_of_both():
    register()
    scene = threestudio.find("composed-volume")(GEOMETRY)
    own = [v.encoding for v in scene.volumes]
    assert {*scene.encoding.parameters()} == {p for e in own for p in e.parameters()}


def test_a_scene_is_good_if_both_creatures_are():
    def scene(*goods):
        kinds = {True: "one face", False: "Janus"}
        return [
            {"method": "jsd", "kind": kinds[x], "good": x, "own_color": True, "own_species": x}
            for x in goods
        ]

    (row,) = summary([scene(True, True), scene(True, False)])
    assert row["good scenes"] == "1 of 2"
    assert (row["one face"], row["Janus"], row["faceless"]) == ("75.0", "25.0", "0.0")
    assert row["own_color"] == "100.0" and row["own_species"] == "75.0"


def test_a_volumes_own_turn_has_the_plain_priors_size(sd_folder):
    register()
    cfg = {"pretrained_model_name_or_path": str(sd_folder), "latent_size": 12}
    guidance = threestudio.find("composed-guidance")(cfg)
    sizes = []
    for step in range(4):
        guidance.do_update_step(0, step)
        x = guidance.distil(torch.rand(4, 16, 16, 3), RandomPrompts(), camera_ring(1, 4))[0]
        sizes.append(x.shape[-1])
    assert sizes == [12, 16, 16, 12]


def test_a_scale_that_waits_is_told_in_every_turn_that_the_shape_has_settled(sd_folder):
    register()
    cfg = {"pretrained_model_name_or_path": str(sd_folder), "guidance_scale": ["settled", 3.0, 6.0]}
    guidance = threestudio.find("composed-guidance")(cfg)
    for settled, scale in ((False, 3.0), (True, 6.0)):
        guidance.tell_settled(settled)
        for step in range(2):
            guidance.do_update_step(0, step)
            guidance.distil(torch.rand(4, 16, 16, 3), RandomPrompts(), camera_ring(1, 4))
            assert guidance.method.guidance_scale == guidance.alone.method.guidance_scale == scale


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a red bear", "is no scene: join two creatures by"),
        ("a red bear and a blue cat and a pink frog", "is no scene"),
        ("a red unicorn and a blue cat", "'a red unicorn' must name exactly one of bear"),
    ],
)
def test_a_prompt_that_is_no_scene_is_refused_before_anything_runs(
    tmp_path, capsys, prompt, message
):
    sweep = tmp_path / "sweep.yaml"
    method = {"config": "configs/tiny/scene.yaml"}
    sweep.write_text(json.dumps({"prompts": [prompt], "methods": {"jsd": method}}))
    assert scenes.main(["--sweep", str(sweep), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1 and not (tmp_path / "out").exists()
