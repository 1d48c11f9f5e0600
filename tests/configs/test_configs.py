"""Every committed config names only what exists, and says the numbers it should."""

from pathlib import Path

import pytest
import threestudio
import torch
from helpers.full_size import build_small_mvdream, build_small_stable_diffusion, full_size_unet
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import LambdaCallback
from threestudio.utils.config import load_config, parse_structured
from threestudio_jointdreamer.data.multiview_camera import MultiviewCameraConfig
from threestudio_jointdreamer.step_schedule import StepSchedule
from threestudio_jointdreamer.systems.geometry_fading import GeometryFading, GeometryFadingConfig

from jointdreamer.host.config_check import check_config
from jointdreamer.host.launcher import run

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = sorted(
    path
    for path in (ROOT / "configs").rglob("*.yaml")
    if path.parent.name not in ("energies", "mixed", "sweeps")
)
ENERGIES = sorted((ROOT / "configs" / "energies").glob("*.yaml"))
PARTS = (
    "geometry",
    "material",
    "background",
    "renderer",
    "prompt_processor",
    "guidance",
    "exporter",
)
PROMPT = "system.prompt_processor.prompt=a bear"
REAL_ONLY = ("jointdreamer-dmtet.yaml", "authors-dmtet.yaml")  # see test_stages.py


def name(path: Path) -> str:
    return str(path.relative_to(ROOT / "configs"))


@pytest.mark.parametrize(
    "path", [path for path in EXPERIMENTS if path.name not in REAL_ONLY], ids=name
)
def test_every_block_parses_with_its_class(path, tmp_path):
    overrides = [PROMPT, "system.weights=null", f"exp_root_dir={tmp_path}"]
    if path.name == "image.yaml":
        overrides.append("system.prompt_processor.image=bear.png")
    cfg = load_config(str(path), cli_args=overrides)
    check_config(OmegaConf.load(path))
    threestudio.find(cfg.data_type)(cfg.data)
    system = parse_structured(threestudio.find(cfg.system_type).Config, cfg.system)
    for part in PARTS:
        cls = threestudio.find(system[f"{part}_type"])
        parse_structured(cls.Config, system[part])
    energy = threestudio.find(system.guidance.energy_type)
    parse_structured(energy.Config, system.guidance.get("energy", {}))
    if system.geometry_fading is not None:
        fading = parse_structured(GeometryFadingConfig, system.geometry_fading)
        GeometryFading(fading, system.optimizer.params)
        assert cfg.trainer.max_steps > fading.start_step


@pytest.mark.parametrize("path", ENERGIES, ids=name)
def test_every_energy_snippet_fits_under_guidance(path):
    snippet = OmegaConf.load(path)
    parse_structured(threestudio.find("jsd-guidance").Config, snippet)
    for block in (snippet, *snippet.energy.get("energies", {}).values()):
        parse_structured(threestudio.find(block.energy_type).Config, block.energy)


def test_snippets_agree_with_the_sums_terms_and_with_the_full_size_config():
    full_size = OmegaConf.load(ROOT / "configs" / "jointdreamer.yaml").system.guidance
    snippets = {path.stem: OmegaConf.load(path) for path in ENERGIES}
    assert snippets["multiview"].energy_weight == full_size.energy_weight
    of_image = OmegaConf.load(ROOT / "configs" / "image.yaml").system.guidance
    assert of_image.energy_weight == snippets["imagedream"].energy_weight
    assert dict(of_image.energy).items() <= dict(snippets["imagedream"].energy).items()
    terms = snippets["sum"].energy.energies
    assert set(terms) == {"multiview", "translation", "classifier"}
    for stem, block in (("multiview", full_size), *terms.items()):
        snippet = snippets[stem]
        assert block.energy_type == snippet.energy_type == f"jsd-{stem}-energy"
        assert {key: snippet.energy[key] for key in block.energy} == dict(block.energy)


def test_full_size_says_the_papers_numbers():
    cfg = OmegaConf.load(ROOT / "configs" / "jointdreamer.yaml")
    guidance, fading = cfg.system.guidance, cfg.system.geometry_fading
    assert guidance.guidance_scale == [5000, 30.0, 50.0, 5001]
    energy_weight = StepSchedule(guidance.energy_weight, "energy_weight")
    of_step = {600: 0, 601: 5 / 16, 2999: 5 / 16, 3000: 5 / 8, 5999: 5 / 8}
    assert {step: energy_weight(0, step) for step in of_step} == of_step
    assert guidance.max_step_percent == [0, 0.98, 0.50, 3000]
    assert guidance.min_step_percent == [0, 0.98, 0.02, 3000]
    assert (fading.start_step, set(fading.lr.values())) == (5000, {1e-6})
    assert cfg.data.batch_size == [8, 4] and cfg.data.width == cfg.data.height == [64, 256]
    assert cfg.trainer.max_steps > 5001  # CFG switching and fading happen inside this run


@pytest.mark.parametrize("stage", ["", "-refine", "-dmtet"])
def test_the_authors_configs_differ_from_ours_by_their_switches_alone(stage):
    ours, theirs = (
        OmegaConf.to_container(OmegaConf.load(ROOT / "configs" / f"{name}{stage}.yaml"))
        for name in ("jointdreamer", "authors")
    )
    guidance = theirs["system"]["guidance"]
    assert guidance.pop("timestep_per") == "batch"
    if guidance["energy_type"] == "jsd-multiview-energy":
        assert guidance["energy"].pop("mask_with_opacity") == "noisy"
        assert guidance["energy"].pop("view_dependent_prompting") is True
    ours["name"] = theirs["name"]
    if not stage:  # ours is one run with the second stage's switches in it
        del ours["system"]["geometry_fading"]
        ours["system"]["guidance"]["guidance_scale"] = 30.0
        ours["trainer"]["max_steps"] = 5000
    assert ours == theirs


def test_default_cameras_are_mvdreams():
    cfg = parse_structured(MultiviewCameraConfig, {})
    assert (cfg.n_view, cfg.azimuth_span, cfg.relative_radius) == (4, 360.0, True)


@pytest.mark.parametrize(
    ("camera", "millions"), [(False, 865.9), (True, 867.6)], ids=["sd-2.1", "mvdream"]
)
def test_full_architecture_has_the_published_size(camera, millions):
    with torch.device("meta"):
        unet = full_size_unet(camera)
    assert sum(p.numel() for p in unet.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.slow
def test_full_size_config_trains_with_the_same_blocks_at_reduced_width(tmp_path):
    """Two steps on either side of the switch, batch and schedules as they are, rays fewer.

    Every parameter has a gradient at each: on several devices DDP waits for all of them.
    """
    missing = []

    def look(trainer, system) -> None:
        trained = ((name, p) for name, p in system.named_parameters() if p.requires_grad)
        missing.extend(name for name, p in trained if p.grad is None)

    sd, mv = tmp_path / "sd", tmp_path / "mv"
    build_small_stable_diffusion(sd)
    build_small_mvdream(mv)
    result = run(
        [
            "--config",
            str(ROOT / "configs" / "jointdreamer.yaml"),
            "--train",
            PROMPT,
            f"exp_root_dir={tmp_path}",
            f"system.guidance.pretrained_model_name_or_path={sd}",
            f"system.guidance.energy.pretrained_model_name_or_path={mv}",
            f"system.prompt_processor.cache_dir={tmp_path}",
            "system.guidance.energy_weight=0.3125",
            "system.renderer.num_samples_per_ray=32",
            "system.geometry.pos_encoding_config.log2_hashmap_size=12",
            "data.width=[8,12]",
            "data.height=[8,12]",
            "data.resolution_milestones=[1]",
            "data.n_test_views=2",
            "data.eval_width=8",
            "data.eval_height=8",
            "trainer.max_steps=2",
            "trainer.limit_val_batches=0",
        ],
        [LambdaCallback(on_after_backward=look)],
    )
    assert result["global_step"] == 2 and not missing
    state = torch.load(result["ckpt"], weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in state.values())
