"""Looking at each creature of a scene by itself."""

import pytest
import threestudio
import torch
from helpers.tiny_run import tiny_config
from omegaconf import OmegaConf

from jointdreamer.janus.scene import creatures_of


def save_run(folder):
    """A run's folder with the checkpoint of a soft ball in the middle."""
    cfg = OmegaConf.create(tiny_config(folder, folder, folder))
    cfg.data.eval_camera_distance = 20.0
    cfg.data.eval_fovy_deg = 5.725  # from so far away that hardly anything looks nearer
    cfg.system.renderer.grid_prune = False  # no training has found out where the object is
    system = threestudio.find(cfg.system_type)(cfg.system)
    (folder / "configs").mkdir(parents=True)
    (folder / "ckpts").mkdir()
    OmegaConf.save(cfg, folder / "configs" / "parsed.yaml")
    state = {"state_dict": system.state_dict(), "epoch": 0, "global_step": 6}
    torch.save(state, folder / "ckpts" / "last.ckpt")


def test_each_is_seen_without_what_stands_beside_it(tmp_path):
    save_run(tmp_path / "run")
    looks = creatures_of(tmp_path / "run", size=8, device="cpu")
    assert list(looks) == ["first", "second"]
    for name, columns in (("first", [3, 4, 5, 6]), ("second", [1, 2, 3, 4])):
        front = looks[name].frames[0]
        shown = (front - front[0, 0]).abs().amax(dim=-1) > 0.02
        # A ball of radius 0.5, cut at y = 0: 0.675 of half a picture from a creature's middle.
        assert shown.any(dim=0).nonzero()[:, 0].tolist() == columns


def test_a_run_that_cannot_be_taken_apart_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no ckpts/last.ckpt"):
        creatures_of(tmp_path)
