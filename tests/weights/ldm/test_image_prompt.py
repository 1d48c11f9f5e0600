"""ImageDream's own file, and the folder in diffusers' layout that people made of it."""

import pytest
import torch
from helpers import originals
from helpers.originals import UNET
from safetensors.torch import save_file
from threestudio_jointdreamer.priors.imagedream import load_image_encoder
from threestudio_jointdreamer.priors.imagedream_unet import ImageDreamUNet
from threestudio_jointdreamer.priors.loading import load_prior
from threestudio_jointdreamer.weights.ldm.checkpoint import Hints, open_checkpoint
from threestudio_jointdreamer.weights.models import open_files

from jointdreamer.convert import convert

CPU = torch.device("cpu")
HINTS = Hints(head_dim=16, clip_head_dim=16)
LAYER = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("imagedream") / "ipmv.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in originals.imagedream().items()}, path)
    return path


def test_the_authors_file_is_converted_once_and_loads(file, tmp_path):
    provenance = convert(file, tmp_path / "folder", torch.float32, HINTS)
    assert provenance["recognised_as"] == "ImageDream (Stable Diffusion 2)"
    assert provenance["left_out"] == {"text encoder": 2}
    name = str(tmp_path / "folder")
    prior, of_file = load_prior(name, CPU, vae_from=name), originals.imagedream()
    assert isinstance(prior.unet, ImageDreamUNet) and prior.latent_size == 32
    state = prior.unet.state_dict()
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
    assert state[f"{layer}.processor.to_k_ip.0.weight"].equal(of_file[f"{LAYER}.to_k_ip.weight"])
    assert state[f"{layer}.to_k.weight"].equal(of_file[f"{LAYER}.to_k.weight"])
    key, value = of_file[f"{UNET}image_embed.layers.1.0.to_kv.weight"].chunk(2)
    assert state["encoder_hid_proj.layers.1.attn.to_k.weight"].equal(key)
    assert state["encoder_hid_proj.layers.1.attn.to_v.weight"].equal(value)
    encoder = load_image_encoder(name, "key", CPU, torch.float32)
    assert encoder.config.hidden_act == "gelu" and encoder.config.image_size == 28


def test_every_number_of_the_file_is_used_once(file):
    _, converted = open_files(file, hints=HINTS).read("unet")
    theirs = sum(t.sum().item() for n, t in originals.imagedream().items() if n.startswith(UNET))
    assert sum(t.sum().item() for t in converted.values()) == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("image_embed.norm_out.bias", None, "missing norm_out.bias"),
        ("image_embed.other", (3,), "unknown image_embed.other"),
        ("image_embed.proj_out.bias", (5,), r"misshapen image_embed.proj_out.bias \(5,\)"),
        (f"{LAYER.removeprefix(UNET)}.to_k_ip.weight", None, "missing .*to_k_ip"),
        (f"{LAYER.removeprefix(UNET)}.to_v_ip.weight", (3, 3), r"misshapen .*to_v_ip.0.weight"),
    ],
)
def test_the_unet_is_held_to_its_names_and_shapes(tmp_path, name, shape, message):
    weights = originals.imagedream()
    weights.pop(UNET + name, None)
    if shape is not None:
        weights[UNET + name] = torch.ones(shape)
    with pytest.raises(ValueError, match=f"taken for ImageDream .*{message}"):
        open_checkpoint(weights, tmp_path / "file.pt", HINTS).read("unet")


def test_a_unet_in_a_diffusers_folder_in_the_authors_layout_is_read(tmp_path):
    unet = originals.random_weights("imagedream")
    folder = originals.save_unet_folder(tmp_path / "model", unet, num_head_channels=16, ip_dim=16)
    config, weights = open_files(folder).read("unet")
    assert config["image_projection"]["num_queries"] == 16
    assert "encoder_hid_proj.latents" in weights
