"""Image embeddings are what the models' own libraries compute, from folders and files."""

import json

import pytest
import torch
import torch.nn.functional as F
from threestudio_jointdreamer.priors.image_embedding import load_image_embedding
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetModel,
    ViTConfig,
    ViTModel,
)

CPU = torch.device("cpu")
SMALL = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]


def clip():
    tower = SMALL | {"intermediate_size": 16, "vocab_size": 8, "image_size": 16, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=tower, vision_config=tower, projection_dim=4))
    return model, lambda x: model.visual_projection(model.vision_model(x).pooler_output)


def dino(kind=ViTModel, config=ViTConfig, **arguments):
    model = kind(config(**SMALL, image_size=16, patch_size=8, layer_norm_eps=1e-6), **arguments)
    return model, lambda x: model(x).last_hidden_state[:, 0]


@pytest.mark.parametrize(
    "build",
    [clip, lambda: dino(add_pooling_layer=False), lambda: dino(Dinov2Model, Dinov2Config)],
    ids=["clip", "dino", "dinov2"],
)
def test_embeddings_are_the_models_own(build, tmp_path):
    """Of pictures resized and normalised as the model's folder says."""
    model, embed = build()
    model.eval().save_pretrained(tmp_path)
    processor = {"image_mean": MEAN, "image_std": STD}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    ours, expected = load_image_embedding(str(tmp_path), CPU), embed((images - mean) / std)
    f = ours(images)
    torch.testing.assert_close(f, F.normalize(expected, dim=1))
    (g,) = torch.autograd.grad(f[0, 0], images)
    assert g[0].abs().max() > 0 and g[1].abs().max() == 0
    assert ours(torch.rand(1, 3, 20, 30)).shape == (1, f.shape[1])


def test_other_models_are_refused(tmp_path):
    small = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])
    ResNetModel(small).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="energy.x='.*' holds a resnet: give a CLIP"):
        load_image_embedding(str(tmp_path), CPU, key="energy.x")
