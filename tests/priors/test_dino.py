"""facebookresearch/dino's backbones in transformers; that the numbers agree is tests/parity's."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from threestudio_jointdreamer.priors.dino import cls_features, load_dino, match_dino
from threestudio_jointdreamer.weights.ldm import dino
from threestudio_jointdreamer.weights.ldm.dino import is_original, to_transformers

from jointdreamer.testing.random_classifiers import (
    DEPTH,
    HEAD_DIM,
    IMAGE_SIZE,
    PATCH,
    WIDTH,
    build_dino,
    original_dino,
    random_vit,
)

CPU = torch.device("cpu")


@pytest.fixture
def weights():
    return original_dino()


@pytest.fixture
def small_heads(monkeypatch):
    """The tiny backbones' heads are narrower than those of all published ones."""
    monkeypatch.setattr(dino, "HEAD_DIM", HEAD_DIM)


def images(height=IMAGE_SIZE, width=IMAGE_SIZE, seed=0):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(seed))


def test_every_weight_is_carried_over_once(weights):
    _, converted = to_transformers(weights, HEAD_DIM)
    assert sum(t.numel() for t in converted.values()) == sum(t.numel() for t in weights.values())
    total = sum(t.double().sum() for t in converted.values())
    torch.testing.assert_close(total, sum(t.double().sum() for t in weights.values()))


def test_names_are_those_of_the_published_model(weights):
    _, converted = to_transformers(weights, HEAD_DIM)
    layer = "encoder.layer.1"
    q, k, v = weights["blocks.1.attn.qkv.weight"].chunk(3)
    attention = f"{layer}.attention.attention"
    assert torch.equal(converted[f"{attention}.query.weight"], q)
    assert torch.equal(converted[f"{attention}.key.weight"], k)
    assert torch.equal(converted[f"{attention}.value.weight"], v)
    for ours, theirs in {
        "embeddings.cls_token": "cls_token",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
        f"{layer}.attention.output.dense.bias": "blocks.1.attn.proj.bias",
        f"{layer}.intermediate.dense.weight": "blocks.1.mlp.fc1.weight",
        f"{layer}.output.dense.weight": "blocks.1.mlp.fc2.weight",
        f"{layer}.layernorm_before.weight": "blocks.1.norm1.weight",
        f"{layer}.layernorm_after.weight": "blocks.1.norm2.weight",
        "layernorm.bias": "norm.bias",
    }.items():
        assert torch.equal(converted[ours], weights[theirs])


def test_the_config_is_read_from_the_shapes(weights):
    config, _ = to_transformers(weights, HEAD_DIM)
    assert config["hidden_size"] == WIDTH
    assert config["num_hidden_layers"] == DEPTH
    assert config["num_attention_heads"] == WIDTH // HEAD_DIM
    assert config["intermediate_size"] == 4 * WIDTH
    assert (config["patch_size"], config["image_size"]) == (PATCH, IMAGE_SIZE)
    assert config["layer_norm_eps"] == 1e-6
    json.dumps(config)


def test_published_heads_have_64_channels():
    config, _ = to_transformers(original_dino(width=128))
    assert config["num_attention_heads"] == 2


def test_a_backbone_without_qkv_biases_is_served(weights):
    for i in range(DEPTH):
        del weights[f"blocks.{i}.attn.qkv.bias"]
    config, converted = to_transformers(weights, HEAD_DIM)
    assert config["qkv_bias"] is False
    assert not any(name.endswith("query.bias") for name in converted)


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone."])
def test_wrapped_backbones_are_unwrapped_and_the_head_of_training_left_out(weights, prefix):
    wrapped = {prefix + name: tensor for name, tensor in weights.items()}
    assert is_original(wrapped)
    wrapped["module.head.mlp.0.weight"] = torch.zeros(3, 3)
    _, converted = to_transformers(wrapped, HEAD_DIM)
    _, plain = to_transformers(weights, HEAD_DIM)
    assert converted.keys() == plain.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("norm.bias"), "missing layernorm.bias"),
        (lambda w: w.pop("blocks.0.mlp.fc1.weight"), "missing .*0.mlp.fc1.weight|intermediate"),
        (lambda w: w.update({"mask_token": torch.zeros(1)}), "unknown .*mask_token"),
        (
            lambda w: w.update({"blocks.0.norm1.bias": torch.zeros(3)}),
            r"misshapen .*layernorm_before.bias \(3,\) instead of \(32,\)",
        ),
        (
            lambda w: w.update({"blocks.0.attn.qkv.bias": torch.zeros(7)}),
            "missing .*0.attention.* unknown .*0.attn.qkv.bias",
        ),
        (lambda w: w.update({"pos_embed": torch.zeros(1, 13, WIDTH)}), "12 patches.*no square"),
        (lambda w: w.pop("cls_token"), "is no checkpoint of .* DINO"),
    ],
)
def test_other_weights_are_refused_by_name(weights, change, message, tmp_path, small_heads):
    change(weights)
    torch.save(weights, tmp_path / "dino.pth")
    with pytest.raises(ValueError, match=f"the.key='.*dino.pth.*{message}"):
        load_dino(str(tmp_path / "dino.pth"), CPU, torch.float32, "the.key")


def test_other_backbones_are_refused(weights):
    with pytest.raises(ValueError, match="32 wide, which does not divide into heads of 64"):
        to_transformers(weights)
    with pytest.raises(ValueError, match="ResNet-50 and XCiT are not served"):
        to_transformers({"conv1.weight": torch.zeros(3), "fc.bias": torch.zeros(3)})


def test_folder_and_original_file_are_one_model(tmp_path, weights, small_heads):
    torch.save(weights, tmp_path / "dino.pth")
    folder = build_dino(tmp_path / "folder")
    from_file = load_dino(str(tmp_path / "dino.pth"), CPU, torch.float32)
    from_folder = load_dino(str(folder), CPU, torch.float32)
    for vit in (from_file, from_folder):
        assert not vit.training
        assert not any(p.requires_grad for p in vit.parameters())
        assert vit.pooler is None
    for size in ((IMAGE_SIZE, IMAGE_SIZE), (48, 40)):
        x = images(*size)
        assert torch.equal(cls_features(from_file, x), cls_features(from_folder, x))
        assert cls_features(from_file, x).shape == (2, WIDTH)


def test_a_part_of_a_folder_is_loaded(tmp_path):
    build_dino(tmp_path / "backbone")
    vit = load_dino(str(tmp_path), CPU, torch.float32, subfolder="backbone")
    assert vit.config.hidden_size == WIDTH


def test_saved_weights_keep_the_published_names(tmp_path, weights):
    """So that a folder written with one release of transformers loads with every other."""
    saved = load_file(build_dino(tmp_path) / "model.safetensors")
    assert saved.keys() == to_transformers(weights, HEAD_DIM)[1].keys()


def test_a_missing_file_and_one_of_another_model_name_the_key(tmp_path):
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match="the.key='.*resnet.pth.*is no checkpoint of .* DINO"):
        load_dino(str(tmp_path / "resnet.pth"), CPU, torch.float32, "the.key")
    with pytest.raises(FileNotFoundError, match="the.key='.*nothing.pth'"):
        load_dino(str(tmp_path / "nothing.pth"), CPU, torch.float32, "the.key")


def test_a_folder_with_misshapen_weights_is_refused_by_name(tmp_path):
    folder = build_dino(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"image_size": 2 * IMAGE_SIZE}))
    with pytest.raises(ValueError, match="misshapen embeddings.position_embeddings"):
        load_dino(str(folder), CPU, torch.float32)


def positions(vit, height, width):
    """The position embeddings that an image of this size is given."""
    length = 1 + (height // PATCH) * (width // PATCH)
    return vit.embeddings.interpolate_pos_encoding(torch.zeros(1, length, WIDTH), height, width)


def test_layer_norms_have_dinos_epsilon_whatever_the_config_says(tmp_path):
    folder = build_dino(tmp_path)
    config = json.loads((folder / "config.json").read_text()) | {"layer_norm_eps": 0.1}
    (folder / "config.json").write_text(json.dumps(config))
    vit = load_dino(str(folder), CPU, torch.float32)
    x = images()
    assert torch.equal(cls_features(vit, x), cls_features(match_dino(random_vit()), x))
    assert vit.config.layer_norm_eps == 1e-6


def test_images_of_the_trained_size_have_the_trained_positions():
    vit = match_dino(random_vit())
    assert torch.equal(positions(vit, 32, 32), vit.embeddings.position_embeddings)
    assert torch.equal(positions(vit, 39, 39), vit.embeddings.position_embeddings)


def test_a_copy_has_its_own_positions():
    vit = match_dino(random_vit())
    before = positions(vit, 48, 24)
    twin = copy.deepcopy(vit)
    twin.embeddings.position_embeddings.data *= 2
    torch.testing.assert_close(positions(twin, 48, 24), 2 * before)
    assert torch.equal(positions(vit, 48, 24), before)


def test_half_precision_positions_are_the_rounded_ones():
    exact = positions(match_dino(random_vit()).half().float(), 48, 24)
    half = positions(match_dino(random_vit()).half(), 48, 24)
    assert half.dtype == torch.float16
    assert torch.equal(half, exact.half())


def test_features_are_differentiable_in_the_image():
    x = images(40, 48).double().requires_grad_()
    vit = match_dino(random_vit()).double()
    (g,) = torch.autograd.grad(cls_features(vit, x).square().sum(), x)
    assert g.shape == x.shape and g.abs().amax(dim=(1, 2, 3)).min() > 0


def test_what_is_left_over_of_whole_patches_is_not_seen():
    vit = match_dino(random_vit())
    x = images(39, 32)
    padded = F.pad(x[..., :32, :], (0, 0, 0, 7), value=5.0)
    assert torch.equal(cls_features(vit, x), cls_features(vit, padded))
