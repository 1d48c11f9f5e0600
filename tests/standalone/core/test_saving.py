"""What SaverMixin leaves on the disk, read back by other programs."""

import json
import subprocess
import sys
from types import SimpleNamespace

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
import trimesh
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


def test_it_needs_no_drawing_or_logging_package_to_be_imported():
    code = f"""
import sys
sys.path[:0] = {[entry for entry in sys.path if entry]!r}
import pytorch_lightning  # brings some of them itself
for name in ("cv2", "wandb", "matplotlib.pyplot", "trimesh"):
    sys.modules[name] = None
from threestudio.utils.saving import SaverMixin
print(SaverMixin.__name__)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "SaverMixin", run.stderr


def test_without_a_folder_nothing_can_be_saved():
    with pytest.raises(ValueError, match="call set_save_dir first"):
        SaverMixin().save_json("a.json", {})


def test_tensors_become_arrays_wherever_they_are(saver):
    data = saver.convert_data({"a": [torch.ones(2, requires_grad=True), None], "b": np.ones(1)})
    assert data["a"][0].tolist() == [1, 1] and data["a"][1] is None
    assert saver.convert_data(torch.ones(1, dtype=torch.bfloat16)).dtype == np.float32
    with pytest.raises(TypeError, match="str cannot be saved"):
        saver.convert_data("text")


def test_pictures_keep_their_values(saver):
    img = torch.rand(3, 5, 3)
    path = saver.save_rgb_image("a/b.png", img)
    assert np.array_equal(imageio.imread(path), (img.numpy() * 255).astype(np.uint8))
    deep = np.arange(6, dtype=np.uint16).reshape(2, 3) * 10000
    assert np.array_equal(imageio.imread(saver.save_image("deep.png", deep)), deep)
    clear = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert np.array_equal(imageio.imread(saver.save_image("clear.png", clear)), clear)
    assert imageio.imread(saver.save_uv_image("uv.png", torch.rand(2, 2, 2))).shape == (2, 2, 3)
    with pytest.raises(ValueError, match="float32: give uint8"):
        saver.save_image("a.png", np.ones((2, 2), dtype=np.float32))


def test_a_grid_is_saved_with_all_kinds_of_cells_and_texts(saver):
    path = saver.save_image_grid(
        "it0-0.png",
        [
            {"type": "rgb", "img": torch.rand(8, 8, 3), "kwargs": {"data_format": "HWC"}},
            {"type": "uv", "img": torch.rand(8, 8, 2), "kwargs": {"cmap": "color"}},
            {"type": "grayscale", "img": torch.rand(8, 8), "kwargs": {"cmap": None}},
        ],
        texts=["a"],
        name="validation_step",
        step=0,
    )
    assert imageio.imread(path).shape == (8, 24, 3)
    rows = [[{"type": "rgb", "img": torch.rand(4, 4, 3), "kwargs": {}}]] * 2
    assert imageio.imread(saver.save_image_grid("rows.png", rows)).shape == (8, 4, 3)


@pytest.mark.parametrize("kind", ["mp4", "gif"])
def test_a_video_shows_the_frames_in_the_order_of_their_numbers(saver, kind):
    for number in (0, 2, 10):  # as text 10 comes before 2
        img = np.full((33, 47, 3), 20 * number, dtype=np.uint8)
        saver.save_image(f"it5-test/{number}.png", img)
    saver.save_json("it5-test/note.json", {})
    path = saver.save_img_sequence("it5-test", "it5-test", r"(\d+)\.png", kind, fps=10)
    frames = imageio.mimread(path)
    assert path.endswith(f"it5-test.{kind}") and len(frames) == 3
    assert [round(float(frame[..., :3].mean())) for frame in frames] == pytest.approx(
        [0, 40, 200], abs=6
    )


def test_mistakes_about_videos_are_told(saver, monkeypatch):
    with pytest.raises(ValueError, match="save_format='avi'"):
        saver.save_img_sequence("a", "a", r"(\d+)", save_format="avi")
    saver.save_json("frames/a.json", {})
    with pytest.raises(FileNotFoundError, match=r"frames' holds no picture"):
        saver.save_img_sequence("a", "frames", r"(\d+)\.png")
    saver.save_image("frames/0.png", np.zeros((2, 2, 3), dtype=np.uint8))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ValueError, match="pip install imageio-ffmpeg"):
        saver.save_img_sequence("a", "frames", r"(\d+)\.png")


def test_an_obj_with_colours_is_read_back(saver):
    mesh = tetrahedron(v_rgb=torch.eye(4)[:, :3])
    (path,) = saver.save_obj("model", mesh, save_vertex_color=True, save_normal=True)
    loaded = trimesh.load(path, process=False)
    assert np.allclose(loaded.vertices, mesh.v_pos)
    assert np.array_equal(loaded.faces, mesh.t_pos_idx)
    assert loaded.visual.vertex_colors[1].tolist() == [0, 255, 0, 255]
    assert loaded.volume == pytest.approx(1 / 6)


def test_an_obj_with_material_names_textures_that_exist(saver, tmp_path):
    mesh = tetrahedron(v_tex=torch.rand(4, 2), t_tex_idx=torch.tensor([[0, 1, 2]] * 4))
    kd, pm = torch.rand(8, 8, 3), torch.rand(8, 8, 1)
    paths = saver.save_obj("m/model.obj", mesh, True, save_uv=True, map_Kd=kd, map_Pm=pm)
    names = {path.rpartition("/")[2] for path in paths}
    assert names == {"model.obj", "model.mtl", "texture_kd.jpg", "texture_metallic.jpg"}
    mtl = (tmp_path / "save/m/model.mtl").read_text().splitlines()
    assert "map_Kd texture_kd.jpg" in mtl and "map_Pm texture_metallic.jpg" in mtl
    assert "Ks 0.0 0.0 0.0" in mtl and not any(line.startswith("Kd") for line in mtl)
    loaded = trimesh.load(tmp_path / "save/m/model.obj", process=False)
    assert loaded.visual.material.image.size == (8, 8)
    v = (tmp_path / "save/m/model.obj").read_text().split("vt ")[1].split()
    assert float(v[1]) == pytest.approx(1 - float(mesh.v_tex[0, 1]))  # images count downwards


def test_a_glb_stands_upright_with_its_colours_on_a_rough_surface(saver):
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0.5]])
    path = saver.save_glb("model", tetrahedron(v_rgb=colours), save_normal=True)
    (loaded,) = trimesh.load(path, process=False).geometry.values()
    assert np.allclose(loaded.vertices[3], [0, 1, 0])  # z up became y up
    assert loaded.volume == pytest.approx(1 / 6)  # and was not mirrored
    stored = loaded.visual.vertex_attributes["color"]
    assert stored[0].tolist() == [255, 0, 0, 255]
    linear = ((0.5 + 0.055) / 1.055) ** 2.4
    assert stored[3][0] == round(255 * linear)
    assert loaded.visual.material.metallicFactor == 0


def test_a_glb_without_colours_and_a_bare_mesh_are_read_back(saver):
    for path in (
        saver.save_glb("plain.glb", tetrahedron()),
        saver.save_mesh("bare.ply", tetrahedron().v_pos, tetrahedron().t_pos_idx),
    ):
        assert len(trimesh.load(path, process=False, force="mesh").faces) == 4


def test_numbers_and_files_are_saved(saver, tmp_path):
    assert json.load(open(saver.save_json("a/b.json", {"x": [1, 2]}))) == {"x": [1, 2]}
    source = tmp_path / "source.txt"
    source.write_text("text")
    assert open(saver.save_file("copy.txt", str(source))).read() == "text"


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
    path = saver.save_rgb_image("f/0.png", torch.rand(2, 2, 3), name="view", step=4)
    video = saver.save_img_sequence("v", "f", r"(\d+)\.png", "gif", name="turn", step=5)
    assert calls == [
        {"key": "view", "images": [path], "step": 4},
        {"key": "turn", "videos": [video], "step": 5, "format": ["gif"]},
    ]
    assert len(saver.get_loggers()) == 1
