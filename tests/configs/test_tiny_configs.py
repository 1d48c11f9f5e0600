"""The tiny world's configs: one demo, its baseline, and one for each other energy."""

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "tiny"
OF_THE_ENERGY = (
    *("energy_type", "energy", "energy_weight"),
    *("energy_gradient", "denoised_from"),
)

SWEEP = OmegaConf.load(ROOT / "configs" / "sweeps" / "benchmark.yaml")
BY_HAND = SWEEP.methods["jsd-multiview"].overrides  # what the demo's own weight stands for
EIGHT_VIEWS = ("classifier", "order", "pose")


def read(name: str) -> dict:
    return OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"))


def demo_by_hand() -> dict:
    demo = read("jointdreamer")
    demo["system"]["guidance"]["energy_weight"] = list(BY_HAND["system.guidance.energy_weight"])
    return demo


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_priors_are_shipped_whole(path):
    text = OmegaConf.to_yaml(OmegaConf.load(path).system.guidance, resolve=True)
    folders = re.findall(r"\w+_name_or_path: (\S+)", text)
    assert folders
    for folder in folders:
        assert folder.startswith("load/tiny/")
        assert list((ROOT / folder).rglob("*.safetensors"))


@pytest.mark.parametrize("name", ["sds", "translation", "classifier", "order", "pose", "sum"])
def test_other_energies_run_with_the_demos_settings(name):
    """Energies are compared, and nothing else; those that look at pictures see eight views."""
    demo, other = read("jointdreamer"), read(name)
    assert other.pop("name") == f"tiny-{name}" != demo.pop("name")
    for config in (demo, other):
        for key in OF_THE_ENERGY:
            config["system"]["guidance"].pop(key, None)
    n_view = other["data"].pop("n_view")
    assert n_view == other["data"].pop("batch_size") == (8 if name in EIGHT_VIEWS else 4)
    assert demo["data"].pop("n_view") == demo["data"].pop("batch_size") == 4
    assert other == demo


def test_scenes_have_the_demos_settings_but_pixels_steps_and_start():
    demo, scene = demo_by_hand(), read("scene")
    for config in (demo, scene):
        system, guidance = config["system"], config["system"]["guidance"]
        for key in ("lora_name_or_path", "latent_size"):
            guidance.pop(key, None), guidance["energy"].pop(key, None)
        for key in ("width", "height", "resolution_milestones"):
            config["data"].pop(key)
        for key in ("base_resolution", "log2_hashmap_size"):
            system["geometry"]["pos_encoding_config"].pop(key)
        system["renderer"].pop("num_samples_per_ray")
        for key in ("density_blob_scale", "density_blob_std"):
            system["geometry"].pop(key)
        for key in ("guidance_scale", "max_step_percent", "energy_weight"):
            start, low, high, end = guidance.pop(key)
            guidance[key] = low, high, round(start / config["trainer"]["max_steps"], 1)
        system["geometry_fading"].pop("start_step"), config.pop("name")
        config["trainer"].pop("max_steps"), config["trainer"].pop("val_check_interval")
    assert scene == demo


@pytest.mark.parametrize("folder", ["", "tiny/"])
def test_gaussians_differ_from_the_nerf_by_the_representation_alone(folder):
    nerf = demo_by_hand() if folder else read("../jointdreamer")
    gaussians = read(f"../{folder}gaussians")
    assert nerf.pop("name") != gaussians.pop("name")
    own = ("geometry", "material", "renderer", "exporter")
    for config in (nerf, gaussians):
        system = config["system"]
        for key in (*own, *(f"{part}_type" for part in own), "geometry_fading", "optimizer"):
            system.pop(key, None)
        system["loss"].pop("lambda_orient", None)  # Gaussians have no normals
    assert gaussians == nerf


def test_sum_is_of_the_energies_that_have_configs_of_their_own():
    terms = read("sum")["system"]["guidance"]["energy"]["energies"]
    for term, name in (
        ("multiview", "jointdreamer"),
        ("translation", "translation"),
        ("classifier", "classifier"),
    ):
        alone = read(name)["system"]["guidance"]
        assert terms[term]["energy_type"] == alone["energy_type"]
        assert terms[term]["energy"] == alone["energy"]
