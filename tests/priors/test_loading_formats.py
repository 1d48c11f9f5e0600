"""Everything that a model's folder may look like, and whose models are loaded."""

import json
import os
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from safetensors.torch import load_file, save_file
from threestudio_jointdreamer.priors.loading import load_model, load_prior, load_schedule
from threestudio_jointdreamer.weights.folder import choose_weights
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    ViTConfig,
    ViTModel,
)

CPU = torch.device("cpu")
STEM = "diffusion_pytorch_model"
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


@pytest.fixture
def folder(sd_folder, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(sd_folder, tmp_path / "model")


def load(model_class, folder, subfolder="unet", dtype=torch.float32, **arguments):
    return load_model(model_class, str(folder), subfolder, CPU, dtype, "the.key", **arguments)


def take_weights(folder) -> dict[str, torch.Tensor]:
    """The UNet's weights, whose file is removed."""
    file = folder / "unet" / f"{STEM}.safetensors"
    weights = {name: tensor.clone() for name, tensor in load_file(file).items()}
    file.unlink()
    return weights


def assert_weights(model, weights) -> None:
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(t, weights[n].to(t.dtype)) for n, t in model.state_dict().items())


@pytest.mark.parametrize(
    ("names", "half", "chosen"),
    [
        (["x.bin", "config.json", f"{STEM}.non_ema.safetensors"], False, []),
        ([f"{STEM}.safetensors", f"{STEM}.fp16.safetensors"], False, [f"{STEM}.safetensors"]),
        ([f"{STEM}.safetensors", f"{STEM}.fp16.safetensors"], True, [f"{STEM}.fp16.safetensors"]),
        ([f"{STEM}.bin", f"{STEM}.fp16.safetensors"], False, [f"{STEM}.fp16.safetensors"]),
        (["model.safetensors", "pytorch_model.bin", "tf_model.h5"], True, ["model.safetensors"]),
        (["pytorch_model.bin", "flax_model.msgpack"], True, ["pytorch_model.bin"]),
        (
            ["model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors"],
            False,
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
        (
            ["model.fp16-00001-of-00001.safetensors", "model-00001-of-00002.safetensors"],
            False,
            ["model.fp16-00001-of-00001.safetensors"],
        ),
    ],
)
def test_the_best_complete_weights_are_chosen(names, half, chosen):
    assert choose_weights(names, half) == chosen


def test_missing_shards_are_named(folder):
    save_file(take_weights(folder), folder / "unet" / f"{STEM}-00002-of-00003.safetensors")
    with pytest.raises(FileNotFoundError, match="the.key=.*holds only 1 of the 3 shards of"):
        load(UNet2DConditionModel, folder)


def test_shards_load(folder):
    weights = take_weights(folder)
    names = sorted(weights)
    for index, part in enumerate((names[::2], names[1::2]), 1):
        file = folder / "unet" / f"{STEM}-0000{index}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, file)
    assert_weights(load(UNet2DConditionModel, folder), weights)


def test_a_pickled_state_dict_loads_without_running_it(folder):
    weights = take_weights(folder)
    torch.save(weights, folder / "unet" / f"{STEM}.bin")
    assert_weights(load(UNet2DConditionModel, folder), weights)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(folder, tmp_path):
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "it-ran"),)

    take_weights(folder)
    torch.save({"conv_in.bias": Malicious()}, folder / "unet" / f"{STEM}.bin")
    with pytest.raises(ValueError, match="the.key=.*mkdir"):
        load(UNet2DConditionModel, folder)
    assert not (tmp_path / "it-ran").exists()


def test_the_half_variant_serves_alone_in_any_precision(folder):
    half = {name: tensor.half() for name, tensor in take_weights(folder).items()}
    save_file(half, folder / "unet" / f"{STEM}.fp16.safetensors")
    for dtype in (torch.float32, torch.float16):
        model = load(UNet2DConditionModel, folder, dtype=dtype)
        assert model.dtype == dtype
        assert_weights(model, half)


def test_names_of_old_vaes_are_understood(folder):
    """The VAEs of SD 1.5 and 2.1 on the hub were written with these."""
    file = folder / "vae" / f"{STEM}.safetensors"
    weights = {name: tensor.clone() for name, tensor in load_file(file).items()}
    renamed = {}
    for name, tensor in weights.items():
        for new, old in (
            ("to_q", "query"),
            ("to_k", "key"),
            ("to_v", "value"),
            ("to_out.0", "proj_attn"),
        ):
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        renamed[name] = tensor
    assert renamed.keys() != weights.keys()
    save_file(renamed, file)
    assert_weights(load(AutoencoderKL, folder, "vae"), weights)


def test_no_random_numbers_are_drawn_for_weights_that_come_from_a_file(folder):
    before = torch.get_rng_state()
    load_prior(folder, CPU, vae_from=folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_file_that_is_overwritten_does_not_change_a_loaded_model(folder):
    file = folder / "unet" / f"{STEM}.safetensors"
    weights = {name: tensor.clone() for name, tensor in load_file(file).items()}
    model = load(UNet2DConditionModel, folder)
    file.write_bytes(b"\0" * file.stat().st_size)
    assert_weights(model, weights)


@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (
            CLIPVisionModelWithProjection,
            CLIPVisionConfig(**SMALL, image_size=16, patch_size=8, projection_dim=8),
        ),
        (ViTModel, ViTConfig(**SMALL, image_size=16, patch_size=8)),
        (CLIPTextModel, CLIPTextConfig(**SMALL, vocab_size=20, max_position_embeddings=8)),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
@pytest.mark.parametrize("file_format", ["safetensors", "bin", "old"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_transformers_models_load(model_class, config, file_format, dtype, tmp_path):
    saved = model_class(config)
    saved.save_pretrained(tmp_path / "part")
    file = tmp_path / "part" / "model.safetensors"
    if file_format != "safetensors":
        weights = {name: tensor.clone() for name, tensor in load_file(file).items()}
        if file_format == "old":  # a buffer that early releases saved
            weights["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
        torch.save(weights, tmp_path / "part" / "pytorch_model.bin")
        file.unlink()
    model = load(model_class, tmp_path, "part", dtype)
    assert {p.dtype for p in model.parameters()} == {dtype} and not model.training
    assert_weights(model, saved.state_dict())


def test_arguments_reach_the_model(tmp_path):
    saved = ViTModel(ViTConfig(**SMALL, image_size=16, patch_size=8), add_pooling_layer=False)
    saved.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"the.key=.*does not load as ViTModel \(missing pooler"):
        load(ViTModel, tmp_path, "")
    model = load(ViTModel, tmp_path, "", add_pooling_layer=False)
    assert model.pooler is None and not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("layernorm.weight"), "missing layernorm.weight"),
        (lambda w: w.update({"layernorm.weight": torch.zeros(7)}), r"misshapen layernorm.weight"),
        (lambda w: w.update({"camera.weight": torch.zeros(7)}), "unknown camera.weight"),
    ],
)
def test_transformers_weights_that_do_not_fit_are_refused_by_name(change, message, tmp_path):
    ViTModel(ViTConfig(**SMALL, image_size=16, patch_size=8)).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file)
    with pytest.raises(ValueError, match=rf"the.key=.*does not load as .*\({message}"):
        load(ViTModel, tmp_path, "")


class Owned(ModelMixin, ConfigMixin):
    """A model of our own, with a buffer that no file holds and another model inside."""

    @register_to_config
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 2)
        self.register_buffer("mean", torch.full((width,), 0.5), persistent=False)


def test_models_of_our_own_load_with_their_buffers(tmp_path):
    saved = Owned(5)
    saved.save_pretrained(tmp_path / "head")
    model = load(Owned, tmp_path, "head")
    assert_weights(model, saved.state_dict())
    assert torch.equal(model.mean, torch.full((5,), 0.5))


def test_v_prediction_is_read_from_the_scheduler(folder):
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "v_prediction"}))
    assert load_schedule(folder).prediction_type == "v_prediction"


def test_an_unreadable_original_file_is_named_with_the_key(tmp_path):
    file = tmp_path / "model.ckpt"
    file.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match=r"the.key=.*model.ckpt"):
        load(UNet2DConditionModel, file)
    with pytest.raises(ValueError, match=r"the.key=.*model.ckpt"):
        load_schedule(file, "the.key")
