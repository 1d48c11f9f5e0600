"""The three stages' configs: the authors' numbers, and that each takes what the last one leaves."""

from pathlib import Path

import pytest
import threestudio
from omegaconf import OmegaConf
from threestudio.utils.config import parse_structured
from threestudio_jointdreamer.data.multiview_camera import MultiviewCameraConfig

from jointdreamer.host.config_check import check_config
from jointdreamer.host.launcher import run

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FIRST, REFINE, DMTET = (
    OmegaConf.load(CONFIGS / f"jointdreamer{stage}.yaml") for stage in ("", "-refine", "-dmtet")
)
PROMPT = "system.prompt_processor.prompt=a bear"


def test_refinement_says_the_authors_numbers():
    guidance, loss = REFINE.system.guidance, REFINE.system.loss
    assert (guidance.guidance_scale, guidance.energy_weight) == (50.0, 0.0)
    assert (guidance.min_step_percent, guidance.max_step_percent) == (0.05, 0.5)
    assert (loss.lambda_opaque, loss.lambda_z_variance, loss.lambda_orient) == (1.0, 1.0, 0.0)
    rates = {name: group.lr for name, group in REFINE.system.optimizer.params.items()}
    assert rates["geometry.encoding"] == rates["geometry.density_network"] == 1e-6
    assert rates["geometry.feature_network"] == rates["background"] == 1e-3
    assert (REFINE.data.batch_size, REFINE.data.width, REFINE.data.height) == (4, 512, 512)
    assert REFINE.trainer.max_steps == 1000  # from 5,000 to 6,000 in the authors' counting


def test_mesh_refinement_says_the_authors_numbers():
    guidance, loss = DMTET.system.guidance, DMTET.system.loss
    assert (guidance.guidance_scale, guidance.cfg_rescale) == (70.0, 0.7)
    assert (guidance.min_step_percent, guidance.max_step_percent) == (0.02, 0.5)
    # theirs: weight 5, half of a squared error, mean over a batch of 8
    assert guidance.energy_weight == 5 / (2 * DMTET.data.batch_size) == 0.3125
    assert loss.lambda_normal_consistency == loss.lambda_laplacian_smoothness == 10000.0
    assert "params" not in DMTET.system.optimizer and DMTET.system.optimizer.args.lr == 0.001
    assert DMTET.system.geometry.isosurface_resolution == 128
    assert (DMTET.trainer.max_steps, DMTET.trainer.precision) == (5000, 32)


def test_refinement_has_the_first_stages_geometry_and_looks():
    system = REFINE.system
    assert FIRST.system.geometry == system.geometry
    assert FIRST.system.renderer == system.renderer and FIRST.system.background == system.background
    assert {**FIRST.system.material, "ambient_only_steps": 0} == dict(system.material)


def test_tetrahedra_inherit_the_first_stages_encoding():
    ours, theirs = DMTET.system.geometry, FIRST.system.geometry
    assert ours.pos_encoding_config == theirs.pos_encoding_config
    assert ours.radius == theirs.radius and DMTET.system.geometry_convert_inherit_texture


def test_schedules_of_the_later_stages_begin_at_their_own_step_0():
    for stage in (REFINE, DMTET):
        assert stage.system.material.ambient_only_steps == 0
        assert stage.system.prompt_processor.start_neg == 0
        negative = stage.system.prompt_processor.negative_prompt
        assert negative == FIRST.system.prompt_processor.negative_prompt


def test_refinement_loads_no_second_prior_and_mesh_refinement_does():
    first, refine, dmtet = (cfg.system.guidance for cfg in (FIRST, REFINE, DMTET))
    names = {guidance.pretrained_model_name_or_path for guidance in (first, refine, dmtet)}
    assert len(names) == 1 and first.energy == dmtet.energy
    assert refine.energy_type == "jsd-zero-energy" and "energy" not in refine


def test_our_blocks_of_the_mesh_config_parse_where_threestudios_are_not():
    given = OmegaConf.merge(DMTET.system, {"geometry_convert_from": "x"})
    parse_structured(MultiviewCameraConfig, DMTET.data)
    parse_structured(threestudio.find("jointdreamer-system").Config, given)
    guidance = parse_structured(threestudio.find("jsd-guidance").Config, DMTET.system.guidance)
    parse_structured(threestudio.find(guidance.energy_type).Config, guidance.energy)


@pytest.mark.parametrize(
    ("file", "key"),
    [("jointdreamer-refine", "weights"), ("jointdreamer-dmtet", "geometry_convert_from")],
)
def test_what_the_earlier_stage_left_must_be_named(file, key):
    system = OmegaConf.load(CONFIGS / f"{file}.yaml").system
    assert OmegaConf.is_missing(system, key)


def test_refinement_without_a_first_stage_is_told_the_key(tmp_path):
    config = str(CONFIGS / "jointdreamer-refine.yaml")
    with pytest.raises(ValueError, match=r"system\.weights is required"):
        run(["--config", config, "--train", PROMPT, f"exp_root_dir={tmp_path}"])


def test_the_standalone_host_refuses_mesh_refinement_and_says_where_it_runs(tmp_path):
    with pytest.raises(ValueError) as refusal:
        config = str(CONFIGS / "jointdreamer-dmtet.yaml")
        run(["--config", config, "--train", PROMPT, f"exp_root_dir={tmp_path}"])
    text = str(refusal.value)
    assert text.startswith("system.geometry_type='tetrahedra-sdf-grid' is threestudio's own")
    assert all(word in text for word in ("tetrahedral grids", "nvdiffrast", "THREESTUDIO_ROOT"))
    assert "jointdreamer install --threestudio" in text and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["nvdiff-rasterizer", "sjc-system", "solid:textured-background"])
def test_names_of_threestudios_own_are_told_from_misspelt_ones(name):
    key = "system_type" if name.endswith("system") else "system.renderer_type"
    cfg = OmegaConf.merge(REFINE, OmegaConf.from_dotlist([f"{key}={name}"]))
    with pytest.raises(ValueError, match=f"{key}='{name}' is threestudio's own"):
        check_config(cfg)
