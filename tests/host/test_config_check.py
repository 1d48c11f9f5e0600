"""Misspelt keys are found before anything is built."""

from dataclasses import dataclass

import pytest
import threestudio
from helpers import toy_run  # noqa: F401  (registers the toys)
from omegaconf import OmegaConf

from jointdreamer.host.config_check import check_config


@threestudio.register("configcheck-system")
class System:
    @dataclass
    class Config:
        guidance_type: str = ""
        guidance: dict | None = None
        loss: dict | None = None
        colour_type: str = ""


@threestudio.register("configcheck-guidance")
class Guidance:
    @dataclass
    class Config:
        guidance_scale: float = 1.0
        energy_type: str = ""
        energy: dict | None = None
        noise_type: str = "shared"


@threestudio.register("configcheck-energy")
class Energy:
    @dataclass
    class Config:
        noise: str = ""


def check(override=None):
    config = {
        "tag": "${rmspace:${system.guidance.prompt},_}",
        "data_type": "toy-datamodule",
        "data": {"size": 3},
        "system_type": "configcheck-system",
        "system": {
            "colour_type": "red",
            "guidance_type": "configcheck-guidance",
            "guidance": {
                "guidance_scale": "${data.size}",
                "noise_type": "fresh",
                "energy_type": "configcheck-energy",
                "energy": {"noise": "???"},
            },
        },
        "trainer": {"max_steps": 3, "devices": 1},
        "checkpoint": {"save_last": True},
    }
    overrides = [] if override is None else [override]
    check_config(OmegaConf.merge(config, OmegaConf.from_dotlist(overrides)))


def test_a_right_config_passes_unresolved_and_incomplete_as_it_is():
    check()


@pytest.mark.parametrize(
    "key, owner, close",
    [
        ("sede", "ExperimentConfig", "seed"),
        ("data.sise", "ToyDataModule", "size"),
        ("system.los", "System", "loss"),
        ("system.guidance.guidance_scal", "Guidance", "guidance_scale"),
        ("system.guidance.energy.nois", "Energy", "noise"),
        ("trainer.max_step", "Trainer", "max_steps"),
        ("checkpoint.save_lst", "ModelCheckpoint", "save_last"),
    ],
)
def test_a_misspelt_key_is_told_with_its_class_and_close_matches(key, owner, close):
    last = key.rpartition(".")[2]
    text = (
        rf"^{key.replace('.', chr(92) + '.')}: {owner} has no key '{last}': did you mean '{close}'"
    )
    with pytest.raises(ValueError, match=text):
        check(f"{key}=1")


@pytest.mark.parametrize(
    "key, value, close",
    [
        ("system_type", "configcheck-sistem", "configcheck-system"),
        ("system.guidance_type", "configcheck-guidence", "configcheck-guidance"),
        ("system.guidance.energy_type", "configcheck-enrgy", "configcheck-energy"),
    ],
)
def test_a_misspelt_name_is_told_with_close_matches(key, value, close):
    with pytest.raises(
        ValueError, match=f"{key}='{value}' is not registered: did you mean.*{close}"
    ):
        check(f"{key}={value}")


def test_what_the_launcher_sets_is_told():
    with pytest.raises(ValueError, match=r"trainer\.logger is set by the launcher"):
        check("trainer.logger=true")


def test_a_config_without_a_system_is_told():
    with pytest.raises(ValueError, match="system_type=null does not fit"):
        check("system_type=null")
