"""Loading models from the hub: what is fetched, interruptions, damage, a full disk, offline use."""

import errno
import hashlib
import shutil
from pathlib import Path

import huggingface_hub.constants as constants
import pytest
import torch
from diffusers import UNet2DConditionModel
from helpers.hub_server import CHUNK, serve_hub
from safetensors.torch import load_file, save
from threestudio_jointdreamer.priors.loading import has_part, load_model, load_schedule
from threestudio_jointdreamer.weights import hub_download

CPU = torch.device("cpu")
REPO = "someone/some-model"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serve_hub(monkeypatch, tmp_path / "cache") as served:
        yield served


@pytest.fixture
def published(hub, sd_folder):
    hub.publish(REPO, sd_folder)
    return hub


def load_unet(name=REPO, dtype=torch.float32):
    return load_model(UNet2DConditionModel, name, "unet", CPU, dtype, "the.key")


def cached(tmp_path, pattern="*") -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob(pattern) if path.is_file()]


def same_weights(model, folder) -> bool:
    weights = load_file(folder / WEIGHTS)
    return all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_only_the_parts_that_are_needed_are_fetched(published, sd_folder):
    assert same_weights(load_unet(), sd_folder)
    assert sorted(published.fetched()) == ["unet/config.json", WEIGHTS]
    load_schedule(REPO)
    assert published.fetched()[2:] == ["scheduler/scheduler_config.json"]


def test_what_is_cached_is_used_without_asking(published, monkeypatch, sd_folder):
    load_unet()
    load_schedule(REPO)
    before = len(published.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same_weights(load_unet(), sd_folder)
    load_schedule(REPO)
    assert len(published.requests) == before


def test_the_half_variant_is_fetched_for_half_precision_only(published, sd_folder):
    variant = WEIGHTS.replace(".safetensors", ".fp16.safetensors")
    half = {name: tensor.half() for name, tensor in load_file(sd_folder / WEIGHTS).items()}
    published.repos[REPO][variant] = save(half)
    assert load_unet(dtype=torch.float16).dtype == torch.float16
    assert variant in published.fetched() and WEIGHTS not in published.fetched()


def test_the_full_weights_are_fetched_for_full_precision(published):
    published.repos[REPO][WEIGHTS.replace(".safetensors", ".fp16.safetensors")] = b"not read"
    load_unet()
    assert published.fetched()[-1] == WEIGHTS


def test_an_interrupted_download_goes_on_where_it_was(published, tmp_path, sd_folder, monkeypatch):
    third = len(published.repos[REPO][WEIGHTS]) // 3 // CHUNK * CHUNK
    with monkeypatch.context() as patch:
        patch.setattr(hub_download._Watched, "write", _interrupted(third))
        with pytest.raises(KeyboardInterrupt):
            load_unet()
    assert not cached(tmp_path, "*.safetensors")
    (partial,) = cached(tmp_path, f"*{hub_download.SUFFIX}")
    assert partial.stat().st_size == third
    assert same_weights(load_unet(), sd_folder)
    assert sent(published) == [0, third]
    assert not cached(tmp_path, "*incomplete*")


def _interrupted(size: int):
    """As Ctrl-C, once so many bytes are written."""
    write = hub_download._Watched.write

    def interrupted(self, data):
        if self.tell() >= size:
            raise KeyboardInterrupt
        return write(self, data)

    return interrupted


def sent(hub) -> list[int]:
    """The first bytes of all transfers of the weights."""
    return [start for method, path, start in hub.requests if (method, path) == ("GET", WEIGHTS)]


def test_a_connection_that_breaks_is_taken_up_again(published, sd_folder):
    third = len(published.repos[REPO][WEIGHTS]) // 3 // CHUNK * CHUNK
    published.cut_after = [third]
    assert same_weights(load_unet(), sd_folder)
    assert sent(published) == [0, third]


def test_a_damaged_beginning_is_thrown_away(published, tmp_path, sd_folder):
    content = published.repos[REPO][WEIGHTS]
    blobs = tmp_path / "cache" / "models--someone--some-model" / "blobs"
    blobs.mkdir(parents=True)
    name = hashlib.sha256(content).hexdigest() + hub_download.SUFFIX
    (blobs / name).write_bytes(b"\0" * 1000)
    assert same_weights(load_unet(), sd_folder)
    assert sent(published) == [1000, 0]


@pytest.mark.parametrize("path", [WEIGHTS, "unet/config.json"])
def test_a_file_that_arrives_damaged_is_fetched_again_and_then_refused(published, tmp_path, path):
    published.damaged = {path: 2}
    with pytest.raises(ValueError, match=f"{path} of {REPO} arrived damaged twice"):
        load_unet()
    assert not [file for file in cached(tmp_path) if file.name == Path(path).name]
    assert not cached(tmp_path, "*incomplete*")
    published.damaged = {path: 1}
    load_unet()


def test_a_full_disk_is_named_and_leaves_no_half_file(published, tmp_path, monkeypatch):
    def write(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub_download._Watched, "write", write)
    with pytest.raises(OSError, match="disk is full.*HF_HOME") as raised:
        load_unet()
    assert raised.value.errno == errno.ENOSPC
    assert not cached(tmp_path, "*.safetensors")


def test_what_the_hub_lacks_is_named(published, sd_folder):
    del published.repos[REPO]["unet/config.json"], published.repos[REPO][WEIGHTS]
    with pytest.raises(FileNotFoundError, match="the.key='someone/some-model'.*no folder unet/"):
        load_unet()
    with pytest.raises(FileNotFoundError, match="the.key='someone/none'.*Repository Not Found|404"):
        load_unet("someone/none")
    with pytest.raises(FileNotFoundError, match="has no file model.ckpt"):
        load_unet(f"{REPO}/model.ckpt")


def test_missing_shards_on_the_hub_are_named(published):
    content = published.repos[REPO].pop(WEIGHTS)
    name = "unet/diffusion_pytorch_model-00001-of-00002.safetensors"
    published.repos[REPO][name] = content
    with pytest.raises(FileNotFoundError, match="only 1 of the 2 shards"):
        load_unet()


def test_has_part_asks_the_hub_once(published, hub, mv_folder):
    hub.publish("someone/mvdream", mv_folder)
    assert has_part(REPO, "vae") and not has_part("someone/mvdream", "vae")


def test_partly_cached_repositories_are_completed(published, tmp_path, sd_folder):
    load_unet()
    (snapshot,) = (tmp_path / "cache").glob("models--*/snapshots/*")
    (snapshot / WEIGHTS).unlink()
    shutil.rmtree(tmp_path / "cache" / "models--someone--some-model" / "blobs")
    (snapshot / "unet" / "config.json").unlink()
    assert same_weights(load_unet(), sd_folder)
