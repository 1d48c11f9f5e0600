"""Cameras along a user's keyframes."""

import json

import pytest
import threestudio
import torch

TURNTABLE = {"eval_height": 6, "eval_width": 8, "n_test_views": 9, "eval_elevation_deg": 10.0}


def path_of(keyframes, tmp_path, **changes):
    file = tmp_path / "path.json"
    file.write_text(keyframes if isinstance(keyframes, str) else json.dumps(keyframes))
    cfg = {**TURNTABLE, "test_camera_path": str(file), **changes}
    data = threestudio.find("jointdreamer-multiview-camera-datamodule")(cfg)
    data.setup("test")
    return data.test_dataset


def test_a_full_turn_is_the_turntable(tmp_path):
    path = path_of([{"azimuth": 0}, {"azimuth": 360}], tmp_path)
    turntable = threestudio.find("jointdreamer-multiview-camera-datamodule")(TURNTABLE)
    turntable.setup("test")
    for mine, theirs in zip(path, turntable.test_dataset, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(mine[name], value, atol=1e-5, rtol=1e-5)
    assert path.collate([path[3]])["rays_d"].shape == (1, 6, 8, 3)


def test_it_passes_through_each_keyframe_and_swings_beyond_none(tmp_path):
    keyframes = [
        {"azimuth": 0, "distance": 2},
        {"azimuth": 90, "elevation": 60, "distance": 1, "fov": 30},
        {"azimuth": 90, "distance": 1},
    ]
    views = list(path_of(keyframes, tmp_path, eval_fovy_deg=50.0))
    for index, frame in ((0, keyframes[0]), (4, keyframes[1]), (8, keyframes[2])):
        view = views[index]
        assert float(view["azimuth"]) == pytest.approx(frame["azimuth"])
        assert float(view["elevation"]) == pytest.approx(frame.get("elevation", 10), abs=1e-4)
        assert float(view["fovy"].rad2deg()) == pytest.approx(frame.get("fov", 50), abs=1e-4)
        assert float(view["camera_positions"].norm()) == pytest.approx(frame["distance"])
    azimuths = torch.stack([view["azimuth"] for view in views])
    assert (azimuths.diff() >= 0).all() and azimuths.max() == 90


@pytest.mark.parametrize(
    ("keyframes", "message"),
    [
        ("[", "data.test_camera_path=.*path.json' must be a JSON file"),
        ([{"azimuth": 0}], "two keyframes or more"),
        ([{"azimuth": 0}, 5], "give a list of a block"),
        ([{"azimuth": 0}, {"azimuth": 1, "fovy": 10}], "has no key 'fovy': did you mean 'fov'"),
        ([{"azimuth": 0}, {"azimuth": 1, "elevation": 90}], r"path.json\[1\].elevation=90"),
    ],
)
def test_mistakes_name_the_file(keyframes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        path_of(keyframes, tmp_path)
    with pytest.raises(ValueError, match="test_camera_path='nowhere.json' must .*No such file"):
        path_of([], tmp_path, test_camera_path="nowhere.json")
