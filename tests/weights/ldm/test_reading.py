"""Original checkpoints become stock configs and weights: every key used, every other one named."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from helpers import originals
from helpers.originals import CLIP, UNET, VAE
from safetensors.torch import save_file
from threestudio_jointdreamer.priors.loading import load_model, load_schedule
from threestudio_jointdreamer.priors.zero123 import CCProjection
from threestudio_jointdreamer.weights.folder import Folder
from threestudio_jointdreamer.weights.ldm.checkpoint import Hints, open_checkpoint
from threestudio_jointdreamer.weights.models import open_files
from transformers import CLIPVisionModelWithProjection

from jointdreamer.convert import convert

CPU = torch.device("cpu")
SD2_HINTS = Hints(head_dim=16)  # at reduced width


def read_original(path, part, hints=None):
    return open_files(path, hints=hints).read(part)


def saved(tmp_path, weights, name="model.pt"):
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path)
    return path


@pytest.fixture(scope="module")
def mvdream_file(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("mvdream"), originals.mvdream())


@pytest.fixture(scope="module")
def zero123_file(tmp_path_factory):
    content = originals.lightning_checkpoint(originals.zero123())
    return saved(tmp_path_factory.mktemp("zero123"), content, "105000.ckpt")


def test_mvdream_loads_from_its_own_file(mvdream_file):
    unet = load_model(UNet2DConditionModel, str(mvdream_file), "unet", CPU, torch.float32)
    vae = load_model(AutoencoderKL, str(mvdream_file), "vae", CPU, torch.float32)
    assert unet.config.class_embed_type == "projection"
    assert unet.config.projection_class_embeddings_input_dim == 16
    assert unet.config.sample_size == 32 and vae.config.sample_size == 256
    assert vae.config.scaling_factor == 0.18215
    of_file = originals.mvdream()
    camera = of_file[f"{UNET}camera_embed.2.weight"]
    assert unet.state_dict()["class_embedding.linear_2.weight"].equal(camera)
    query = of_file[f"{VAE}encoder.mid.attn_1.q.weight"][:, :, 0, 0]
    assert vae.state_dict()["encoder.mid_block.attentions.0.to_q.weight"].equal(query)


@pytest.mark.parametrize("base", ["sd15", "sd21"])
def test_every_number_of_the_file_is_used_once(tmp_path, base):
    weights = originals.mvdream(base)
    file = saved(tmp_path, weights, "model.safetensors")
    for part, prefix in (("unet", UNET), ("vae", VAE)):
        _, converted = read_original(file, part, SD2_HINTS if base == "sd21" else None)
        theirs = sorted(t.sum().item() for name, t in weights.items() if name.startswith(prefix))
        assert sorted(tensor.sum().item() for tensor in converted.values()) == theirs


def test_heads_are_those_of_the_base_model(tmp_path):
    config, _ = read_original(saved(tmp_path, originals.mvdream("sd15"), "a.pt"), "unet")
    assert config["attention_head_dim"] == 8 and config["use_linear_projection"] is False
    file = saved(tmp_path, originals.mvdream("sd21"), "b.pt")
    config, _ = read_original(file, "unet", SD2_HINTS)
    assert config["attention_head_dim"] == [2, 4, 8, 8] and config["use_linear_projection"] is True
    with pytest.raises(ValueError, match="width 32 does not divide into heads of 64"):
        read_original(file, "unet")


def test_zero123_loads_from_its_own_file(zero123_file):
    unet = load_model(UNet2DConditionModel, str(zero123_file), "unet", CPU, torch.float32)
    projection = load_model(CCProjection, str(zero123_file), "cc_projection", CPU, torch.float32)
    clip = load_model(
        CLIPVisionModelWithProjection, str(zero123_file), "image_encoder", CPU, torch.float32
    )
    of_file = originals.zero123()
    assert unet.config.in_channels == 8 and unet.config.sample_size == 32
    assert projection.projection.weight.equal(of_file["cc_projection.weight"])
    assert clip.config.image_size == 28 and clip.config.projection_dim == 24
    first = of_file[f"{CLIP}visual.transformer.resblocks.0.attn.in_proj_weight"][:64]
    name = "vision_model.encoder.layers.0.self_attn.q_proj.weight"
    assert clip.state_dict()[name].equal(first)
    assert clip.visual_projection.weight.equal(of_file[f"{CLIP}visual.proj"].T)


def test_averaged_weights_are_taken_where_there_are_any(zero123_file):
    plain = originals.zero123()[f"{UNET}out.2.weight"]
    _, averaged = read_original(zero123_file, "unet")
    _, as_trained = read_original(zero123_file, "unet", Hints(ema=False))
    assert averaged["conv_out.weight"].equal(plain + 1)
    assert as_trained["conv_out.weight"].equal(plain)
    assert open_files(zero123_file).averaged
    assert open_files(zero123_file).left_out == {"text encoder": 6, "plain weights": 686}


def test_counters_alone_are_no_averages(tmp_path):
    weights = originals.stable_diffusion() | {"model_ema.decay": torch.tensor(0.9999)}
    assert not open_files(saved(tmp_path, weights)).averaged


def test_averages_of_another_model_are_refused(tmp_path):
    weights = originals.stable_diffusion() | {"model_ema.diffusion_modelelse": torch.ones(1)}
    with pytest.raises(ValueError, match=r"unknown diffusion_modelelse"):
        open_files(saved(tmp_path, weights))


def test_stable_diffusion_1_predicts_noise_for_512_pixels(tmp_path):
    file = saved(tmp_path, originals.stable_diffusion())
    config, _ = read_original(file, "unet")
    assert config["sample_size"] == 64 and "class_embed_type" not in config
    assert read_original(file, "vae")[0]["sample_size"] == 512
    assert read_original(file, "scheduler")[0]["prediction_type"] == "epsilon"


@pytest.mark.parametrize(("prediction", "size"), [("epsilon", 64), ("v_prediction", 96)])
def test_stable_diffusion_2_needs_to_be_told_what_it_predicts(tmp_path, prediction, size):
    file = saved(tmp_path, originals.stable_diffusion("sd21"))
    for part in ("unet", "scheduler"):
        with pytest.raises(ValueError, match="--prediction-type epsilon"):
            read_original(file, part, SD2_HINTS)
    hints = Hints(head_dim=16, prediction_type=prediction)
    assert read_original(file, "scheduler", hints)[0]["prediction_type"] == prediction
    assert read_original(file, "unet", hints)[0]["sample_size"] == size
    assert read_original(file, "vae", hints)[0]["sample_size"] == 8 * size
    assert read_original(file, "vae")[1]  # which does not care


def test_the_schedule_is_the_checkpoints(mvdream_file, tmp_path):
    schedule = load_schedule(str(mvdream_file))
    theirs = originals.schedule_buffers()["alphas_cumprod"]
    torch.testing.assert_close(schedule.alphas_cumprod, theirs, rtol=1e-4, atol=0)
    config, _ = read_original(mvdream_file, "scheduler")
    assert (config["beta_start"], config["beta_end"]) == (0.00085, 0.012)

    other = torch.linspace(0.001, 0.02, 500)
    file = saved(tmp_path, originals.stable_diffusion() | {"betas": other})
    scheduler = DDIMScheduler.from_config(read_original(file, "scheduler")[0])
    torch.testing.assert_close(scheduler.betas, other)


def test_a_schedule_without_buffers_is_the_one_of_all_models(tmp_path):
    weights = {k: v for k, v in originals.mvdream().items() if k.startswith((UNET, VAE))}
    config, _ = read_original(saved(tmp_path, weights), "scheduler")
    assert (config["beta_start"], config["num_train_timesteps"]) == (0.00085, 1000)


def test_a_scale_factor_in_the_file_counts(tmp_path):
    weights = originals.stable_diffusion() | {"scale_factor": torch.tensor(0.13025)}
    assert read_original(saved(tmp_path, weights), "vae")[0]["scaling_factor"] == 0.13025


@pytest.mark.parametrize("prefix", ["", "unet."])
def test_a_published_folder_of_mvdream_is_read(tmp_path, prefix):
    unet = originals.random_weights("mvdream-sd21", prefix)
    folder = originals.save_unet_folder(tmp_path / "m", unet, num_heads=-1, num_head_channels=16)
    model = load_model(UNet2DConditionModel, str(folder), "unet", CPU, torch.float32)
    assert model.config.attention_head_dim == [2, 4, 8, 8]
    assert model.conv_out.bias.equal(unet[f"{prefix}out.2.bias"])


@pytest.mark.parametrize("name", ["UNet2DConditionModel", "UNetMV2DConditionModel"])
def test_a_stock_unet_and_wonder3ds_stay_as_they_are(tmp_path, name):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"_class_name": name}))
    weights = {"conv_in.bias": torch.ones(2)}
    save_file(weights, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    config, read = Folder(tmp_path).read("unet")
    assert config == {"_class_name": name} and read.keys() == weights.keys()


def test_the_projection_of_zero123_xl_is_found_under_its_name(tmp_path):
    folder = tmp_path / "clip_camera_projection"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"_class_name": "CLIPCameraProjection"}))
    weights = {"proj.weight": torch.randn(24, 28), "proj.bias": torch.randn(24)}
    save_file(weights, folder / "diffusion_pytorch_model.safetensors")
    assert Folder(tmp_path).parts == ["cc_projection"]
    config, converted = read_original(tmp_path, "cc_projection")
    assert config == {"in_channel": 28, "out_channel": 24}
    assert converted["projection.bias"].equal(weights["proj.bias"])


def test_an_autoencoder_alone_is_read(tmp_path):
    weights = originals.random_weights("mvdream-vae") | {"loss.logvar": torch.ones(1)}
    file = saved(tmp_path, weights, "vae.ckpt")
    assert read_original(file, "vae")[1]["quant_conv.bias"].equal(weights["quant_conv.bias"])
    with pytest.raises(ValueError, match="has no unet, only vae"):
        read_original(file, "unet")


DAMAGE = {
    "missing": (lambda w: w.pop(f"{UNET}out.0.bias"), "missing conv_norm_out.bias"),
    "missing attention": (
        lambda w: w.pop(f"{UNET}middle_block.1.norm.weight"),
        "missing mid_block.attentions.0.norm.weight",
    ),
    "missing camera": (
        lambda w: w.pop(f"{UNET}camera_embed.0.bias"),
        "missing class_embedding.linear_1.bias",
    ),
    "missing first": (
        lambda w: w.pop(f"{UNET}middle_block.1.proj_in.weight"),
        "missing mid_block.attentions.0.proj_in.weight",
    ),
    "surplus": (
        lambda w: w.update({f"{UNET}middle_block.1.extra.weight": torch.ones(2)}),
        "unknown middle_block.1.extra.weight",
    ),
    "a block more": (
        lambda w: w.update({f"{UNET}id_predictor.weight": torch.ones(2)}),
        "unknown id_predictor.weight",
    ),
    "misshapen": (
        lambda w: w.update({f"{UNET}out.2.bias": torch.ones(7)}),
        r"misshapen out.2.bias \(7,\) instead of \(4,\)",
    ),
    "misshapen inside": (
        lambda w: w.update({f"{UNET}time_embed.2.weight": torch.ones(128, 4)}),
        r"misshapen time_embed.2.weight \(128, 4\) instead of \(128, 128\)",
    ),
    "another model beside it": (
        lambda w: w.update(control_model=torch.ones(1)),
        "unknown control_model",
    ),
    "inpainting": (
        lambda w: w.update({f"{UNET}input_blocks.0.0.weight": torch.ones(32, 9, 3, 3)}),
        "takes 9 channels instead of 4",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_checkpoint_that_does_not_fit_is_refused_with_the_names(tmp_path, damage):
    weights = originals.mvdream()
    change, message = DAMAGE[damage]
    change(weights)
    with pytest.raises(ValueError, match=message) as refusal:
        open_checkpoint(weights, tmp_path / "model.pt").read("unet")
    assert str(tmp_path / "model.pt") in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("part", "name", "change", "message"),
    [
        ("vae", f"{VAE}quant_conv.bias", None, "missing quant_conv.bias"),
        ("vae", f"{VAE}encoder.down.0.attn.0.q.weight", torch.ones(2), "unknown encoder.down.0"),
        ("vae", f"{VAE}decoder.conv_in.bias", torch.ones(3), r"misshapen decoder.conv_in.bias"),
        ("image_encoder", f"{CLIP}visual.ln_post.bias", None, "missing .*post_layernorm.bias"),
        ("image_encoder", f"{CLIP}visual.extra", torch.ones(2), "unknown extra"),
        ("image_encoder", f"{CLIP}visual.ln_pre.bias", torch.ones(3), "misshapen ln_pre.bias"),
        ("cc_projection", "cc_projection.bias", None, "missing bias"),
        ("cc_projection", "cc_projection.bias", torch.ones(3), r"misshapen bias \(3,\)"),
        ("cc_projection", "cc_projection.more", torch.ones(3), "unknown more"),
        ("unet", f"{CLIP}other", torch.ones(3), "unknown cond_stage_model.model.other"),
    ],
)
def test_other_parts_are_held_to_their_names_too(tmp_path, part, name, change, message):
    weights = originals.zero123()
    if change is None:
        del weights[name]
    else:
        weights[name] = change
    with pytest.raises(ValueError, match=message):
        open_checkpoint(weights, tmp_path / "105000.ckpt").read(part)


def test_a_model_of_another_kind_is_refused(tmp_path):
    file = saved(tmp_path, {"down_blocks.0.weight": torch.ones(2)}, "unet.safetensors")
    with pytest.raises(ValueError, match="no checkpoint of .*down_blocks.0.weight"):
        read_original(file, "unet")
    with pytest.raises(ValueError, match="no image_encoder, only unet, vae, scheduler"):
        read_original(saved(tmp_path, originals.mvdream()), "image_encoder")


def test_a_camera_embedding_beside_a_stock_unet_is_joined_to_it(tmp_path, mvdream_file):
    config, weights = read_original(mvdream_file, "unet")
    camera = {k: weights.pop(k) for k in list(weights) if k.startswith("class_embedding.")}
    config = {k: v for k, v in config.items() if "class_embed" not in k}
    for folder, content, tensors in (
        ("unet", config, weights),
        ("camera_proj", {}, {k.removeprefix("class_embedding."): v for k, v in camera.items()}),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps(content))
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(tensors, tmp_path / folder / "diffusion_pytorch_model.safetensors")
    ours = load_model(UNet2DConditionModel, str(tmp_path), "unet", CPU, torch.float32)
    theirs = load_model(UNet2DConditionModel, str(mvdream_file), "unet", CPU, torch.float32)
    assert ours.config.projection_class_embeddings_input_dim == 16
    assert all(ours.state_dict()[k].equal(v) for k, v in theirs.state_dict().items())
    convert(str(tmp_path), tmp_path / "out", torch.float32)
    back = load_model(UNet2DConditionModel, str(tmp_path / "out"), "unet", CPU, torch.float32)
    assert all(back.state_dict()[k].equal(v) for k, v in theirs.state_dict().items())
