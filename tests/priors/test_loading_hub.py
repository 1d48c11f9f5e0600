"""Loading models from the hub: what is fetched, what the cache has, and what errors say."""

import errno
from pathlib import Path

import huggingface_hub.constants as constants
import pytest
import torch
from diffusers import UNet2DConditionModel
from helpers.hub_server import serve_hub
from safetensors.torch import load_file, save
from threestudio_jointdreamer.priors.loading import has_part, load_model, load_prior, load_schedule
from threestudio_jointdreamer.weights import names

CPU = torch.device("cpu")
REPO = "someone/some-model"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
HALF = WEIGHTS.replace(".safetensors", ".fp16.safetensors")


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


def same_weights(model, folder) -> bool:
    weights = load_file(folder / WEIGHTS)
    return all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_only_the_parts_that_are_needed_are_fetched(published, sd_folder):
    published.repos[REPO][WEIGHTS.replace("safetensors", "bin")] = b"not needed"
    assert same_weights(load_unet(), sd_folder)
    assert sorted(published.fetched()) == ["unet/config.json", WEIGHTS]
    load_schedule(REPO)
    assert published.fetched()[2:] == ["scheduler/scheduler_config.json"]


def test_what_is_cached_is_used_without_asking(published, monkeypatch, sd_folder):
    load_unet()
    load_schedule(REPO)
    before = len(published.requests)
    assert same_weights(load_unet(), sd_folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    load_prior(REPO, CPU)
    assert len(published.requests) == before


def test_all_parts_of_a_prior_are_asked_for_once(published):
    load_prior(REPO, CPU, vae_from=REPO)
    assert sum(not path for _, path in published.requests) <= 3  # lists of the library and ours


def test_the_half_variant_is_fetched_for_half_precision_only(published, sd_folder):
    half = {name: tensor.half() for name, tensor in load_file(sd_folder / WEIGHTS).items()}
    published.repos[REPO][HALF] = save(half)
    assert load_unet(dtype=torch.float16).dtype == torch.float16
    assert HALF in published.fetched() and WEIGHTS not in published.fetched()


def test_the_full_weights_are_fetched_for_full_precision(published):
    published.repos[REPO][HALF] = b"not read"
    load_unet()
    assert WEIGHTS in published.fetched() and HALF not in published.fetched()


@pytest.mark.parametrize("lost", [WEIGHTS, "unet/config.json"])
def test_partly_cached_repositories_are_completed(published, tmp_path, sd_folder, lost):
    load_unet()
    (file,) = (tmp_path / "cache").glob(f"models--*/snapshots/*/{lost}")
    file.resolve().unlink()
    file.unlink()
    fetched = len(published.fetched())
    assert same_weights(load_unet(), sd_folder)
    assert published.fetched()[fetched:] == [lost]


def test_a_full_disk_is_named_with_the_remedy(published, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(names, "snapshot_download", full)
    with pytest.raises(OSError, match="disk is full.*HF_HOME") as raised:
        load_unet()
    assert raised.value.errno == errno.ENOSPC


def test_what_the_hub_lacks_is_named(published):
    del published.repos[REPO]["unet/config.json"], published.repos[REPO][WEIGHTS]
    with pytest.raises(FileNotFoundError, match="the.key='someone/some-model'.*no folder unet/"):
        load_unet()
    with pytest.raises(FileNotFoundError, match="the.key='someone/none'.*Repository Not Found|404"):
        load_unet("someone/none")
    with pytest.raises(FileNotFoundError, match=f"the.key='{REPO}/model.ckpt'.*model.ckpt|404"):
        load_unet(f"{REPO}/model.ckpt")


def test_missing_shards_on_the_hub_are_named(published):
    content = published.repos[REPO].pop(WEIGHTS)
    name = "unet/diffusion_pytorch_model-00001-of-00002.safetensors"
    published.repos[REPO][name] = content
    with pytest.raises(FileNotFoundError, match="only 1 of the 2 shards"):
        load_unet()


def test_has_part_asks_the_hub(published, mv_folder):
    published.publish("someone/mvdream", mv_folder)
    assert has_part(REPO, "vae") and not has_part("someone/mvdream", "vae")


def test_a_broken_link_in_the_cache_is_fetched_again(published, tmp_path, sd_folder):
    load_unet()
    for blob in (tmp_path / "cache").glob("models--*/blobs/*"):
        blob.unlink()
    assert same_weights(load_unet(), sd_folder)


def test_the_library_leaves_nothing_half_written(published, tmp_path):
    load_unet()
    files = [path for path in Path(tmp_path / "cache").rglob("*") if "incomplete" in path.name]
    assert files == []
