"""jsd-guidance in threestudio's own DreamFusion system, with its cameras and with ours."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_run import tiny_config
from omegaconf import OmegaConf

from jointdreamer.host.launcher import run


def dreamfusion(config: dict[str, Any]) -> dict[str, Any]:
    """The tiny run for a system that knows no fading and wants a λ for every loss."""
    config["system_type"] = "dreamfusion-system"
    for key in ("guidance_eval_step", "geometry_fading"):
        del config["system"][key]
    config["trainer"] |= {"max_steps": 2, "limit_val_batches": 0}
    config["data"] |= {"batch_size": 2, "width": 8, "height": 8, "resolution_milestones": []}
    return config


def with_random_cameras(config: dict[str, Any]) -> dict[str, Any]:
    """Single views from threestudio's own data module."""
    config["data_type"] = "random-camera-datamodule"
    del config["data"]["n_view"]
    config["data"]["camera_distance_range"] = [2.5, 3.0]
    config["system"]["guidance"] |= {"n_view": 1}
    return config


@pytest.mark.parametrize("change", [dreamfusion, lambda c: with_random_cameras(dreamfusion(c))])
def test_trains_in_dreamfusion_system(tmp_path: Path, sd_folder, mv_folder, change):
    config = change(tiny_config(sd_folder, mv_folder, tmp_path))
    path = tmp_path / "config.yaml"
    OmegaConf.save(OmegaConf.create(config), path)
    result = run(["--config", str(path), "--train"])
    state = torch.load(result["ckpt"], weights_only=True)
    assert state["global_step"] == 2
    moments = state["optimizer_states"][0]["state"].values()
    assert len(moments) > 3 and all(m["exp_avg"].isfinite().all() for m in moments)
    assert all(moment["exp_avg"].abs().max() > 0 for moment in moments)
