"""`jointdreamer download`, from a hub on loopback, and offline use afterwards."""

import os
from pathlib import Path

import huggingface_hub.constants as constants
import pytest
from helpers.hub_server import serve_hub
from helpers.prior_fixtures import mv_folder, sd_folder  # noqa: F401
from helpers.tiny_run import write_tiny_config
from threestudio_jointdreamer.weights import hub_download

from jointdreamer import download as module
from jointdreamer.cli import main

SD, MV = "someone/stable-diffusion", "someone/mvdream"
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def hub(monkeypatch, tmp_path, sd_folder, mv_folder):  # noqa: F811
    with serve_hub(monkeypatch, tmp_path / "cache") as served:
        served.publish(SD, sd_folder)
        served.publish(MV, mv_folder)
        served.repos[SD]["unet/diffusion_pytorch_model.bin"] = b"not needed"
        yield served


@pytest.fixture
def config(tmp_path):
    return write_tiny_config(tmp_path / "config.yaml", SD, MV)


@pytest.fixture
def download(config):
    return lambda *arguments: main(["download", str(config), *arguments])


def cached(tmp_path, pattern="*") -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob(pattern) if path.is_file()]


def test_everything_a_config_needs_is_fetched_and_a_run_is_then_offline(
    hub, config, download, monkeypatch, tmp_path, capsys
):
    from jointdreamer.host.launcher import run

    assert download() == 0
    assert "Runs with this config need no network" in capsys.readouterr().out
    assert (
        len(hub.fetched()) == len(set(hub.fetched())) + 3
    )  # both have unet/, of two files, and scheduler/
    assert "unet/diffusion_pytorch_model.bin" not in hub.fetched()
    asked = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    result = run(["--config", str(config), "--train", "trainer.max_steps=1", "use_timestamp=false"])
    assert result["global_step"] == 1
    assert download() == 0
    assert len(hub.requests) == asked


def test_a_dry_run_says_sizes_and_fetches_nothing(hub, download, capsys, tmp_path):
    assert download("--dry-run") == 0
    printed = capsys.readouterr().out
    assert "would be downloaded" in printed and f"{SD} unet" in printed
    assert "to download" in printed and hub.fetched() == [] and not cached(tmp_path)


def test_an_interrupted_download_is_continued(hub, download, monkeypatch, capsys):
    half = len(hub.repos[MV][UNET]) // 2048 * 1024
    write = hub_download._Watched.write

    def interrupted(self, data):
        if self.tell() >= half:
            raise KeyboardInterrupt
        return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(hub_download._Watched, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            download()
    assert download("--dry-run") == 0
    assert "GiB of it left" in capsys.readouterr().out
    assert download() == 0
    assert half in [start for method, path, start in hub.requests if method == "GET"]


def test_a_file_damaged_in_the_cache_is_fetched_again(hub, download, tmp_path, capsys):
    download()
    (blob,) = {file.resolve() for file in cached(tmp_path, "*.safetensors") if MV_IN(file)}
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    fetched = len(hub.fetched())
    assert download() == 0
    assert f"{UNET} of {MV} is damaged in the cache" in capsys.readouterr().out
    assert hub.fetched()[fetched:] == [UNET]
    content[-1] ^= 1
    assert blob.read_bytes() == content


def MV_IN(file: Path) -> bool:
    return "mvdream" in str(file) and file.parent.name == "unet"


def test_a_file_that_arrives_damaged_is_status_2_and_not_kept(hub, download, tmp_path, capsys):
    hub.damaged = {"vae/diffusion_pytorch_model.safetensors": 2}
    assert download() == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: vae/diffusion_pytorch_model.safetensors") and "twice" in error
    assert not any(file.parent.name == "vae" for file in cached(tmp_path, "*.safetensors"))


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(
    hub, download, monkeypatch, capsys
):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda place: usage)
    assert download() == 2
    assert "have to be downloaded, but" in capsys.readouterr().err
    assert hub.fetched() == []


def test_what_is_nowhere_is_status_2_and_named_before_anything_is_fetched(hub, download, capsys):
    key = "system.guidance.energy.pretrained_model_name_or_path"
    assert download(f"{key}=load/nowhere") == 2
    assert f"{key}='load/nowhere'" in capsys.readouterr().err
    assert download(f"{key}=load/nowhere", "--dry-run") == 1
    assert hub.fetched() == []


def test_a_hub_that_cannot_be_reached_is_one_line(hub, download, monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert download() == 2
    error = capsys.readouterr().err
    assert "HF_HUB_OFFLINE is set" in error and error.splitlines()[-1].startswith("error: ")


def test_local_priors_need_nothing(tmp_path, sd_folder, mv_folder, capsys):  # noqa: F811
    config = write_tiny_config(tmp_path / "local.yaml", sd_folder, mv_folder)
    assert main(["download", str(config)]) == 0
    assert "needs nothing from the hub" in capsys.readouterr().out


def test_nothing_temporary_stays_in_the_cache(hub, download, tmp_path):
    download()
    assert not [file for file in cached(tmp_path) if "incomplete" in file.name]
    assert os.listdir(tmp_path / "cache")
