"""`jointdreamer convert` writes folders that load as the original does, whole or not at all."""

import hashlib
import json
import os

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from helpers import originals
from helpers.hub_server import serve_hub
from helpers.originals import UNET, VAE
from safetensors.torch import load_file, save_file
from threestudio_jointdreamer.priors import loading
from threestudio_jointdreamer.priors.dino import load_dino
from threestudio_jointdreamer.priors.image_prior import load_image_prior
from threestudio_jointdreamer.priors.loading import load_model, load_prior, load_schedule
from threestudio_jointdreamer.weights.ldm.checkpoint import Hints
from threestudio_jointdreamer.weights.ldm.dino import to_transformers
from transformers import CLIPImageProcessor

from jointdreamer import convert as converting
from jointdreamer.cli import main
from jointdreamer.testing.random_image_priors import build_wonder3d, build_zero123
from jointdreamer.testing.random_priors import build_sd3

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def mvdream_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("mvdream") / "sd-v1.5-4view.pt"
    torch.save(originals.mvdream(), file)
    return file


@pytest.fixture(scope="module")
def converted(mvdream_file):
    folder = mvdream_file.parent / "converted"
    return folder, converting.convert(str(mvdream_file), folder)


def convert(*arguments):
    return main(["convert", *map(str, arguments)])


def assert_equal(ours, theirs, dtype=torch.float16):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(tensor.to(dtype).float()) for name, tensor in theirs.items())


def test_a_converted_folder_loads_as_its_file_does(mvdream_file, converted):
    folder, _ = converted
    from_file = load_prior(str(mvdream_file), CPU, vae_from=str(mvdream_file))
    from_folder = load_prior(str(folder), CPU, vae_from=str(folder))
    assert_equal(from_folder.unet, from_file.unet)
    assert_equal(from_folder.vae, from_file.vae)
    assert from_folder.unet.config.attention_head_dim == from_file.unet.config.attention_head_dim
    assert from_folder.image_size == from_file.image_size == 256
    alphas = from_file.schedule.alphas_cumprod
    assert from_folder.schedule.alphas_cumprod.equal(alphas)


def test_a_converted_folder_is_stock_half_precision_safetensors(converted):
    folder, _ = converted
    assert sorted(os.listdir(folder)) == ["provenance.json", "scheduler", "unet", "vae"]
    for part, stock in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        weights = load_file(folder / part / "diffusion_pytorch_model.safetensors")
        assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
        stock.from_pretrained(folder / part)


def test_provenance_says_what_it_was_made_from(mvdream_file, converted):
    folder, told = converted
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance == told
    content = mvdream_file.read_bytes()
    assert provenance["files"] == [
        {
            "name": "sd-v1.5-4view.pt",
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    ]
    assert provenance["recognised_as"] == "MVDream (Stable Diffusion 1)"
    assert provenance["parts"] == ["scheduler", "unet", "vae"]
    assert provenance["left_out"] == {"text encoder": 2}
    assert provenance["tool"].startswith("threestudio-jointdreamer ")
    assert provenance["written_at"].endswith("+00:00")


def test_the_command_tells_what_it_did(mvdream_file, tmp_path, capsys):
    assert convert(mvdream_file, tmp_path / "out", "--dtype", "float32") == 0
    told = capsys.readouterr().out
    assert "is MVDream (Stable Diffusion 1)" in told and "scheduler, unet, vae" in told
    assert "Left out: text encoder (2 tensors)" in told
    weights = load_file(tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors")
    assert weights["conv_out.bias"].equal(originals.mvdream()[f"{UNET}out.2.bias"])


def test_zero123_brings_its_image_encoder_and_projection(tmp_path):
    torch.save(
        originals.lightning_checkpoint(originals.zero123()), file := tmp_path / "105000.ckpt"
    )
    assert convert(file, tmp_path / "out") == 0
    prior = load_image_prior(str(tmp_path / "out"), CPU)
    assert prior.kind == "zero123"
    weight = originals.zero123()["cc_projection.weight"].half().float()
    assert prior.cc_projection.projection.weight.equal(weight)
    assert prior.image_encoder.config.image_size == 28
    processor = CLIPImageProcessor.from_pretrained(tmp_path / "out" / "feature_extractor")
    assert processor.crop_size["height"] == 28
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert provenance["unet_weights"] == "averaged (EMA)"
    assert convert(file, tmp_path / "plain", "--no-ema") == 0
    plain = load_file(tmp_path / "plain" / "unet" / "diffusion_pytorch_model.safetensors")
    assert plain["conv_out.bias"].equal(originals.zero123()[f"{UNET}out.2.bias"].half())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_stable_diffusion_2_is_converted_once_its_prediction_is_known(tmp_path, prediction):
    torch.save(originals.stable_diffusion("sd21"), file := tmp_path / "sd2.ckpt")
    hints = Hints(head_dim=16, prediction_type=prediction)
    converting.convert(str(file), tmp_path / "out", hints=hints)
    assert load_schedule(str(tmp_path / "out")).prediction_type == prediction
    with pytest.raises(ValueError, match="--prediction-type"):
        converting.convert(str(file), tmp_path / "other", hints=Hints(head_dim=16))
    assert sorted(os.listdir(tmp_path)) == ["out", "sd2.ckpt"]


def test_a_published_folder_becomes_a_stock_one(tmp_path, converted):
    unet = originals.random_weights("mvdream-sd15")
    folder = originals.save_unet_folder(tmp_path / "m", unet, num_heads=8)
    for part in ("vae", "scheduler"):
        (folder / part).symlink_to(converted[0] / part)
    assert convert(folder, tmp_path / "out") == 0
    assert_equal(
        load_prior(str(tmp_path / "out"), CPU).unet, load_prior(str(converted[0]), CPU).unet
    )
    assert (tmp_path / "out" / "vae").is_dir() and (tmp_path / "out" / "scheduler").is_dir()
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert {file["name"] for file in provenance["files"]} >= {"diffusion_pytorch_model.bin"}
    assert convert(folder, tmp_path / "other", "--prediction-type", "epsilon") == 2


def test_a_wonder3d_folder_keeps_its_kind(tmp_path):
    folder = build_wonder3d(tmp_path / "wonder3d")
    assert convert(folder, tmp_path / "out", "--dtype", "float32") == 0
    ours, theirs = load_image_prior(str(tmp_path / "out"), CPU), load_image_prior(str(folder), CPU)
    assert ours.kind == theirs.kind == "wonder3d"
    assert_equal(ours.prior.unet, theirs.prior.unet, torch.float32)
    assert_equal(ours.image_encoder, theirs.image_encoder, torch.float32)


def test_stable_diffusion_3_keeps_its_transformer_and_its_path(tmp_path):
    source = build_sd3(tmp_path / "sd3")
    made = converting.convert(str(source), tmp_path / "out")
    assert made["parts"] == ["scheduler", "transformer", "vae"]
    before, after = (load_prior(str(folder), CPU) for folder in (source, tmp_path / "out"))
    assert_equal(after.unet, before.unet)
    assert torch.equal(before.schedule.sigmas, after.schedule.sigmas)


def test_a_repository_of_the_hub_is_converted_with_all_its_parts(tmp_path, monkeypatch):
    folder = build_zero123(tmp_path / "zero123-xl")
    (folder / "cc_projection").rename(side := folder / "clip_camera_projection")
    weights = load_file(side / "diffusion_pytorch_model.safetensors")
    weights = {name.replace("projection.", "proj."): tensor for name, tensor in weights.items()}
    save_file(weights, side / "diffusion_pytorch_model.safetensors")
    with serve_hub(monkeypatch, tmp_path / "cache") as hub:
        hub.publish("someone/zero123-xl", folder)
        assert convert("someone/zero123-xl", tmp_path / "out", "--dtype", "float32") == 0
    prior = load_image_prior(str(tmp_path / "out"), CPU)
    assert prior.cc_projection.projection.weight.equal(weights["proj.weight"])
    parts = {"unet", "vae", "scheduler", "image_encoder", "cc_projection"}
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} >= parts


def test_dino_becomes_a_transformers_folder(tmp_path):
    weights = originals.random_weights("dino-vits16-80")
    torch.save({"teacher": weights, "epoch": 3}, file := tmp_path / "dino.pth")
    assert convert(file, tmp_path / "out") == 0
    vit = load_dino(str(tmp_path / "out"), CPU, torch.float32)
    token = to_transformers(weights)[1]["embeddings.cls_token"]
    assert vit.embeddings.cls_token.equal(token.half().float())


def test_only_an_earlier_conversion_is_overwritten_and_on_demand(mvdream_file, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cat.jpg").touch()
    for more, said in (([], "exists already"), (["--overwrite"], "was not made by jointdreamer")):
        assert convert(mvdream_file, tmp_path / "out", *more) == 2
        assert said in capsys.readouterr().err
    assert os.listdir(tmp_path / "out") == ["cat.jpg"]
    (tmp_path / "out" / "provenance.json").write_text("{}")
    assert convert(mvdream_file, tmp_path / "out") == 2
    assert convert(mvdream_file, tmp_path / "out", "--overwrite") == 0
    assert not (tmp_path / "out" / "cat.jpg").exists()


def test_nothing_is_left_of_a_conversion_that_fails_in_the_middle(tmp_path, capsys):
    weights = originals.mvdream()
    del weights[f"{VAE}quant_conv.bias"]  # the UNet is written before the VAE is looked at
    torch.save(weights, file := tmp_path / "model.pt")
    assert convert(file, tmp_path / "out") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and "missing quant_conv.bias" in error
    assert os.listdir(tmp_path) == ["model.pt"]


def test_a_planted_pickle_does_not_run_and_leaves_nothing(tmp_path, capsys):
    class Plant:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "it-ran"),)

    torch.save({"state_dict": originals.mvdream(), "callbacks": Plant()}, tmp_path / "model.ckpt")
    assert convert(tmp_path / "model.ckpt", tmp_path / "out") == 2
    assert "mkdir" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["model.ckpt"]


def test_numbers_that_half_precision_cannot_hold_are_named(tmp_path, capsys):
    weights = originals.mvdream()
    weights[f"{UNET}out.2.bias"] = torch.full((4,), 1e6)
    torch.save(weights, file := tmp_path / "model.pt")
    assert convert(file, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "conv_out.bias" in error and "--dtype float32" in error
    assert convert(file, tmp_path / "out", "--dtype", "float32") == 0


def test_a_disk_that_changes_numbers_is_noticed(mvdream_file, tmp_path, monkeypatch):
    def changed(*args, **kwargs):
        model = load_model(*args, **kwargs)
        model.conv_out.bias.data = model.conv_out.bias + 1
        return model

    monkeypatch.setattr(loading, "load_model", changed)
    with pytest.raises(OSError, match="unet reads back differently"):
        converting.convert(str(mvdream_file), tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_a_source_that_is_nothing_is_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert convert(tmp_path / "empty", tmp_path / "out") == 2
    assert "none of the folders unet, transformer, vae" in capsys.readouterr().err
    assert convert(tmp_path / "nowhere.ckpt", tmp_path / "out") == 2
    assert "nowhere.ckpt" in capsys.readouterr().err
