"""What SaverMixin leaves on the disk, read back by other programs."""

import resource
import sys
from pathlib import Path
from types import SimpleNamespace

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from threestudio.utils.files import replacing
from threestudio.utils.saving import SaverMixin


@pytest.fixture
def saver(tmp_path):
    saver = SaverMixin()
    saver.set_save_dir(str(tmp_path / "save"))
    return saver


def tetrahedron(**more):
    v_pos = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    mesh = {"v_pos": v_pos, "t_pos_idx": faces, "v_nrm": v_pos, "v_rgb": None}
    return SimpleNamespace(**{**mesh, **more})


def test_without_a_folder_nothing_can_be_saved():
    with pytest.raises(ValueError, match="call set_save_dir first"):
        SaverMixin().get_save_path("a.json")


def test_tensors_become_arrays(saver):
    assert saver.convert_data(torch.ones(2, requires_grad=True)).tolist() == [1, 1]
    assert saver.convert_data(None) is None
    assert saver.convert_data(torch.ones(1, dtype=torch.bfloat16)).dtype == np.float32


def picture(saver, filename, value=0.5, **more):
    img = torch.full((33, 47, 3), value)
    return saver.save_image_grid(filename, [{"type": "rgb", "img": img, "kwargs": {}}], **more)


def test_a_grid_keeps_its_cells_values(saver):
    rgb, opacity = torch.rand(8, 8, 3), torch.rand(8, 8)
    gray = {"cmap": None, "data_range": (0, 1)}
    path = saver.save_image_grid(
        "a/it0-0.png",
        [
            {"type": "rgb", "img": rgb, "kwargs": {"data_format": "HWC"}},
            {"type": "grayscale", "img": opacity, "kwargs": gray},
        ],
    )
    saved = imageio.imread(path)
    assert np.array_equal(saved[:, :8], (rgb.numpy() * 255).astype(np.uint8))
    assert np.array_equal(saved[:, 8:, 0], (opacity.numpy() * 255).astype(np.uint8))


@pytest.mark.parametrize("kind", ["mp4", "gif"])
def test_a_video_shows_the_frames_in_the_order_of_their_numbers(saver, kind):
    for number in (0, 2, 10):  # as text 10 comes before 2
        picture(saver, f"it5-test/{number}.png", 20 * number / 255)
    Path(saver.get_save_path("it5-test/note.json")).touch()
    path = saver.save_img_sequence("it5-test", "it5-test", r"(\d+)\.png", kind, fps=10)
    frames = imageio.mimread(path)
    assert path.endswith(f"it5-test.{kind}") and len(frames) == 3
    assert [round(float(frame[..., :3].mean())) for frame in frames] == pytest.approx(
        [0, 40, 200], abs=6
    )


def test_mistakes_about_videos_are_told(saver, monkeypatch):
    with pytest.raises(ValueError, match="save_format='avi'"):
        saver.save_img_sequence("a", "a", r"(\d+)", save_format="avi")
    Path(saver.get_save_path("frames/a.json")).touch()
    with pytest.raises(FileNotFoundError, match=r"frames' holds no picture"):
        saver.save_img_sequence("a", "frames", r"(\d+)\.png")
    picture(saver, "frames/0.png")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ValueError, match="pip install imageio-ffmpeg"):
        saver.save_img_sequence("a", "frames", r"(\d+)\.png")


@pytest.mark.parametrize("limit", [0, 400])
def test_a_film_that_ffmpeg_could_not_finish_is_none(saver, limit):
    for number in range(3):
        picture(saver, f"frames/{number}.png")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))  # as a full disk does
    try:
        with pytest.raises(OSError, match="free some and do it again") as told:
            saver.save_img_sequence("turn", "frames", r"(\d+)\.png")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    folder = Path(saver.get_save_dir())
    assert told.value.filename == str(folder / "turn.mp4")
    assert [path.name for path in folder.iterdir()] == ["frames"]


def test_an_obj_with_material_names_a_plain_one_that_exists(saver):
    mtl, obj = saver.save_obj("m/model.obj", tetrahedron(), save_mat=True)
    assert Path(obj).read_text().startswith("mtllib model.mtl\ng object\nusemtl default\nv ")
    assert Path(mtl).name == "model.mtl"
    assert {"newmtl default", "Kd 1.0 1.0 1.0"} <= set(Path(mtl).read_text().splitlines())


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), replacing(str(target)) as temporary:
        with open(temporary, "w") as file:
            file.write("half")
        raise RuntimeError
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]
    with replacing(str(target)) as temporary, open(temporary, "w") as file:
        file.write("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new" and list(tmp_path.iterdir()) == [target]


def test_pictures_also_go_to_weights_and_biases_when_it_is_on(saver):
    calls = []
    saver.create_loggers(OmegaConf.create({"wandb": {"enable": False}}))
    assert saver.get_loggers() == []
    saver._wandb_logger = SimpleNamespace(
        log_image=lambda **call: calls.append(call), log_video=lambda **call: calls.append(call)
    )
    path = picture(saver, "f/0.png", name="view", step=4)
    video = saver.save_img_sequence("v", "f", r"(\d+)\.png", "gif", name="turn", step=5)
    assert calls == [
        {"key": "view", "images": [path], "step": 4},
        {"key": "turn", "videos": [video], "step": 5, "format": ["gif"]},
    ]
    assert len(saver.get_loggers()) == 1
