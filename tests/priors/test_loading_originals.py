"""Original checkpoint files and published folders, loaded directly, from here and from the hub."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from helpers.hub_server import serve_hub
from helpers.originals import mvdream, stable_diffusion
from safetensors.torch import save_file
from threestudio_jointdreamer.priors.loading import has_part, load_model, load_prior

CPU = torch.device("cpu")
HUB_FILE = "someone/mvdream/sd-v1.5-4view.pt"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """MVDream's and Stable Diffusion's file, as .pt and .safetensors, with the same VAE."""
    folder = tmp_path_factory.mktemp("originals")
    torch.save(mvdream(), folder / "mvdream.pt")
    weights = {name: tensor.clone() for name, tensor in stable_diffusion().items()}
    save_file(weights, folder / "sd.safetensors")
    return folder


def places(model) -> set[int]:
    return {tensor.data_ptr() for tensor in model.state_dict().values()}


def test_two_files_make_two_priors_with_one_vae(files):
    multiview = load_prior(str(files / "mvdream.pt"), CPU, vae_from=str(files / "mvdream.pt"))
    plain = load_prior(str(files / "sd.safetensors"), CPU, vae_from=str(files / "sd.safetensors"))
    assert multiview.unet.config.class_embed_type == "projection"
    assert plain.unet.config.class_embed_type is None
    assert multiview.schedule.num_train_timesteps == 1000
    assert places(multiview.vae) == places(plain.vae)


def test_a_file_on_the_hub_is_fetched_once_for_all_parts(files, monkeypatch, tmp_path):
    with serve_hub(monkeypatch, tmp_path / "cache") as hub:
        content = (files / "mvdream.pt").read_bytes()
        hub.repos["someone/mvdream"] = {"sd-v1.5-4view.pt": content, "README.md": b"x"}
        assert has_part(HUB_FILE, "vae") and not has_part(HUB_FILE, "image_encoder")
        prior = load_prior(HUB_FILE, CPU, vae_from=HUB_FILE)
        assert hub.fetched() == ["sd-v1.5-4view.pt"]
    assert places(prior.unet) and prior.vae is not None


def test_local_files_and_folders_tell_their_parts(files, sd_folder, mv_folder):
    assert has_part(str(files / "mvdream.pt"), "vae")
    assert not has_part(str(files / "mvdream.pt"), "image_encoder")
    assert has_part(str(sd_folder), "vae") and not has_part(str(mv_folder), "vae")
    assert not has_part("nowhere/to/be/found", "vae")


def test_a_part_that_a_file_lacks_is_named_with_the_key(files):
    with pytest.raises(ValueError, match=r"the.key='.*mvdream.pt'.*has no image_encoder, only"):
        load_model(
            UNet2DConditionModel,
            str(files / "mvdream.pt"),
            "image_encoder",
            CPU,
            torch.float32,
            "the.key",
        )
