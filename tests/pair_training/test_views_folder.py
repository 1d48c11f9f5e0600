"""Folders in views_release's layout: cameras, pictures, which objects are kept from training."""

import json

import numpy as np
import pytest
import torch
from helpers.views_release import world_to_camera, write_object, write_views_release
from PIL import Image

from jointdreamer.pair_training.views_folder import ViewsFolder, read_camera
from jointdreamer.testing.cameras import camera_ring

SHARE = 0.3


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_views_release(tmp_path_factory.mktemp("views"), 24)


def open_folder(root, held_out=False, **changes):
    arguments = {"held_out_share": SHARE, "n_view": 3, "image_size": 16} | changes
    return ViewsFolder(root, held_out, **arguments)


def test_cameras_become_camera_to_world(tmp_path):
    for c2w in camera_ring(2, 3)["c2w"]:
        np.save(tmp_path / "000.npy", world_to_camera(c2w))
        assert torch.allclose(read_camera(tmp_path / "000.npy"), c2w, atol=1e-6)


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((3, 4)),
        np.full((3, 4), np.nan),
        np.eye(4)[:2],
        np.eye(4, dtype=int)[:3],
        np.diag([1.0, 1.0, -1.0, 1.0])[:3],
        np.eye(4)[:3] * 2,
    ],
    ids=["zeros", "nan", "two-rows", "integers", "mirrored", "scaled"],
)
def test_what_is_no_camera_is_refused(tmp_path, matrix):
    np.save(tmp_path / "000.npy", matrix)
    with pytest.raises(ValueError, match="000.npy holds"):
        read_camera(tmp_path / "000.npy")


def test_a_pose_file_that_would_run_code_is_refused(tmp_path):
    np.save(tmp_path / "000.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="no NumPy array"):
        read_camera(tmp_path / "000.npy")


def test_each_object_is_on_one_side_and_stays_there(root, tmp_path):
    training, held_out = open_folder(root).names, open_folder(root, held_out=True).names
    assert sorted(training + held_out) == [f"object-{i:03d}" for i in range(24)]
    assert 2 <= len(held_out) <= 14
    fewer = write_views_release(tmp_path / "fewer", 14)
    assert set(open_folder(fewer, held_out=True).names) <= set(held_out)


def test_listed_objects_only_are_served(tmp_path):
    root = write_views_release(tmp_path, 12)
    listed = [f"object-{i:03d}" for i in range(10)]
    (root / "valid_paths.json").write_text(json.dumps(listed))
    both = open_folder(root).names + open_folder(root, held_out=True).names
    assert sorted(both) == listed
    (root / "valid_paths.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="no JSON list"):
        open_folder(root)


def test_pictures_lie_before_white_when_held_out_and_before_colours_in_training(root):
    held_out, training = open_folder(root, held_out=True), open_folder(root)
    item = held_out[0]
    assert item["images"].shape == (3, 3, 16, 16) and item["images"].dtype == torch.uint8
    assert item["c2w"].shape == (3, 4, 4)
    assert (item["images"][:, :, 0, 0] == 255).all()
    assert all(torch.equal(value, held_out[0][name]) for name, value in item.items())
    torch.manual_seed(0)
    corners = torch.cat([training[0]["images"][:, :, 0, 0] for _ in range(8)])
    assert 4 <= (corners == 255).all(dim=1).sum() <= 20


def test_pictures_and_cameras_belong_together(tmp_path):
    for name in ("a", "b"):
        write_object(tmp_path / name, (200, 90, 90))
    folder = open_folder(tmp_path, held_out_share=0.0, n_view=5, image_size=24)
    item = folder[0]
    for image, c2w in zip(item["images"], item["c2w"], strict=True):
        azimuth = torch.atan2(c2w[1, 3], c2w[0, 3])
        x, y = 0.5 * azimuth.cos(), 0.5 * azimuth.sin()  # where write_object puts the spot
        column, row = (((v + 1) / 2 * 23).round().int().item() for v in (x, y))
        assert image[0, row, column] < 60


def test_an_unreadable_object_is_left_out_with_a_warning(tmp_path):
    root = write_views_release(tmp_path, 4)
    (root / "object-001" / "000.png").write_bytes(b"no picture")
    folder = open_folder(root, held_out_share=0.0, n_view=5)
    with pytest.warns(UserWarning, match="object-001 is left out"):
        item = folder[1]
    shown, wanted = (x["images"][0, :, 8, 8].int() for x in (item, folder[2]))
    assert (shown - wanted).abs().max() <= 2  # its colour, but for the rounding of resized pictures


def test_a_folder_of_something_else_is_refused(tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "photo.png")
    folder = open_folder(tmp_path, held_out_share=0.0)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="10 objects in a row.*000.npy"):
        folder[0]


def test_too_few_objects_and_no_folder_are_told(tmp_path):
    write_views_release(tmp_path, 2)
    with pytest.raises(ValueError, match="two of each side"):
        open_folder(tmp_path, held_out=True, held_out_share=0.001)
    with pytest.raises(FileNotFoundError, match="--data"):
        open_folder(tmp_path / "nowhere")
