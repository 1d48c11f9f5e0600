"""jsd-guidance in a system that is not ours, with groups of views and with single ones."""

from pathlib import Path

import helpers.plain_system  # noqa: F401  (registers it)
import pytest
import torch
from helpers.tiny_run import tiny_config
from omegaconf import OmegaConf

from jointdreamer.host.launcher import run


@pytest.mark.parametrize("n_view", [1, 2])
def test_trains_in_a_system_of_threestudios_kind(tmp_path: Path, sd_folder, mv_folder, n_view):
    config = tiny_config(sd_folder, mv_folder, tmp_path)
    config["system_type"] = "plain-system"
    for key in ("guidance_eval_step", "geometry_fading"):
        del config["system"][key]
    config["trainer"] |= {"max_steps": 2, "limit_val_batches": 0}
    config["data"] |= {"batch_size": 2, "width": 8, "height": 8, "resolution_milestones": []}
    config["data"]["n_view"] = config["system"]["guidance"]["n_view"] = n_view
    path = tmp_path / "config.yaml"
    OmegaConf.save(OmegaConf.create(config), path)
    result = run(["--config", str(path), "--train"])
    state = torch.load(result["ckpt"], weights_only=True)
    assert state["global_step"] == 2
    moments = state["optimizer_states"][0]["state"].values()
    assert len(moments) > 3 and all(m["exp_avg"].isfinite().all() for m in moments)
    assert all(moment["exp_avg"].abs().max() > 0 for moment in moments)
