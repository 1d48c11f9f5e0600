"""Frames and a film without their background."""

import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from helpers.tiny_run import write_tiny_config
from PIL import Image
from threestudio_jointdreamer.systems import viewing
from threestudio_jointdreamer.systems.viewing import without_background

from jointdreamer.host.launcher import run


def test_the_color_is_that_of_the_object_alone():
    behind, color = torch.tensor([0.2, 0.4, 0.8]), torch.tensor([1.0, 0.0, 0.5])
    opacity = torch.tensor([0.0, 0.25, 1.0]).view(1, 1, 3, 1)
    seen = opacity * color + (1 - opacity) * behind
    out = {"comp_rgb": seen, "comp_rgb_bg": behind.expand_as(seen), "opacity": opacity}
    rgba = without_background(out)
    assert rgba[0, :, 3].tolist() == [0, 64, 255]
    assert rgba[0, 1:, :3].tolist() == [[255, 0, 128]] * 2
    with pytest.raises(ValueError, match="system.transparent_film=true"):
        without_background({"comp_rgb": seen})


def decoded(path) -> np.ndarray:
    """[F H W 4]; ffmpeg's own VP9 decoder leaves the alpha channel out."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-c:v", "libvpx-vp9"]
    command += ["-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgba", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.uint8)


def test_a_test_along_a_path_leaves_its_own_films_beside_the_turntable(
    tmp_path, sd_folder, mv_folder, monkeypatch
):
    (tmp_path / "path.json").write_text('[{"azimuth": 0}, {"azimuth": 90, "elevation": 60}]')
    config = write_tiny_config(tmp_path / "config.yaml", sd_folder, mv_folder)
    trial = run(["--config", str(config), "--train", "trainer.max_steps=1"])["trial_dir"]
    more = ["system.transparent_film=true", f"data.test_camera_path={tmp_path / 'path.json'}"]
    run(["--test", f"resume={trial}", *more])
    save = tmp_path / "outputs" / "tiny" / "run" / "save"
    names = {path.name for path in save.glob("it1-*")}
    assert names >= {"it1-test", "it1-test.mp4", "it1-test-contact-sheet.png"}
    assert names >= {"it1-path", "it1-path.mp4", "it1-path-transparent", "it1-path.webm"}
    with Image.open(save / "it1-path-transparent" / "8.png") as frame:
        assert frame.mode == "RGBA" and frame.size == (8, 8)
    films = np.stack([np.asarray(Image.open(f)) for f in save.glob("it1-path-transparent/?.png")])
    alpha = decoded(save / "it1-path.webm").reshape(films.shape)[..., 3].astype(int)
    assert np.abs(alpha.mean(axis=0) - films[..., 3].mean(axis=0)).max() < 16
    assert alpha.min() < 64 < 192 < alpha.max()

    monkeypatch.setitem(viewing.VP9, "codec", "libnope")  # as of an ffmpeg without VP9
    kept = (save / "it1-path.webm").read_bytes()
    with pytest.raises(OSError, match="libvpx-vp9; the frames are in"):
        run(["--test", f"resume={trial}", *more])
    assert (save / "it1-path.webm").read_bytes() == kept
