"""Looking at runs and turntables from all round."""

import pytest
import threestudio
import torch
from helpers.finished_runs import write_turntable
from helpers.tiny_run import tiny_config
from omegaconf import OmegaConf
from PIL import Image

from jointdreamer.janus.views import AZIMUTHS_DEG, ELEVATIONS_DEG, views_of

STEP = 6


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with the checkpoint of a system that was never trained, and the system."""
    folder = tmp_path_factory.mktemp("runs") / "a_bear"
    cfg = OmegaConf.create(tiny_config(folder, folder, folder))
    cfg.data.eval_camera_distance = 2.0
    cfg.system.renderer.grid_prune = False  # no training has found out where the object is
    torch.manual_seed(3)
    system = threestudio.find(cfg.system_type)(cfg.system)
    (folder / "configs").mkdir(parents=True)
    (folder / "ckpts").mkdir()
    OmegaConf.save(cfg, folder / "configs" / "parsed.yaml")
    state = {"state_dict": system.state_dict(), "epoch": 0, "global_step": STEP}
    torch.save(state, folder / "ckpts" / "last.ckpt")
    return folder, cfg, system


def test_a_run_is_rendered_all_round_at_several_elevations(run):
    folder, cfg, system = run
    views = views_of(folder, size=8, device="cpu")
    assert views.frames.shape == (len(AZIMUTHS_DEG) * len(ELEVATIONS_DEG), 8, 8, 3)
    assert views.azimuths_deg.tolist() == [*AZIMUTHS_DEG] * 3

    # The same camera, set up by hand: azimuth 15, elevation 30.
    from threestudio_jointdreamer.data.cameras import Cameras, camera_batch, orbit

    one = torch.ones(1)
    position = orbit(30 * one, 15 * one, 2.0 * one)
    center, up = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]])
    angles = (torch.deg2rad(40 * one), 30 * one, 15 * one)
    camera = Cameras(position, center, up, position, *angles, 2.0 * one)
    system.set_resume_status(0, STEP)
    system.do_update_step(0, STEP, on_load_weights=True)
    with torch.no_grad():
        expected = system.eval()(camera_batch(camera, 8, 8, True))["comp_rgb"][0]
    assert torch.allclose(views.frames[2 * 24 + 1], expected, atol=1e-4)
    assert expected.std() > 0.01


def test_a_run_without_a_checkpoint_shows_its_turntable_in_the_order_of_numbers(tmp_path):
    write_turntable(tmp_path / "save" / "it40-test", 25)
    write_turntable(tmp_path / "save" / "it8-test", 5)
    views = views_of(tmp_path)
    assert views.frames.shape == (25, 8, 8, 3)  # of the newest step, and the left square
    assert torch.allclose(views.frames[:, 0, 0, 0] * 255, torch.arange(25) * 10.0)
    assert views.azimuths_deg.tolist() == [15.0 * index for index in range(25)]


def test_what_is_no_asset_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder"):
        views_of(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no .png"):
        views_of(tmp_path / "empty")
    write_turntable(tmp_path / "mixed", 3)
    Image.new("RGB", (4, 4)).save(tmp_path / "mixed" / "9.png")
    with pytest.raises(ValueError, match="differ in size"):
        views_of(tmp_path / "mixed")
