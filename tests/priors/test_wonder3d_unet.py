"""Wonder3D's UNet on current diffusers: its layers, its published names, what is refused."""

import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from threestudio_jointdreamer.priors.loading import load_model
from threestudio_jointdreamer.priors.multiview import use_cross_view_attention
from threestudio_jointdreamer.priors.wonder3d import (
    COLOURS,
    NORMALS,
    Wonder3D,
    camera_and_domain,
)
from threestudio_jointdreamer.priors.wonder3d_unet import Wonder3DUNet

from jointdreamer.testing.random_image_priors import build_wonder3d

CPU = torch.device("cpu")
JOINT = "attn_joint_mid", "norm_joint_mid"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_wonder3d(tmp_path_factory.mktemp("priors") / "wonder3d")


def load_unet(folder):
    return load_model(Wonder3DUNet, str(folder), "unet", CPU, torch.float32)


@pytest.fixture
def pictures():
    """Two normals, then the colours of the same two views."""
    torch.manual_seed(0)
    numbers = torch.cat([camera_and_domain(torch.rand(2, 2), d) for d in (NORMALS, COLOURS)])
    return torch.randn(4, 8, 16, 16), torch.randn(4, 1, 24), numbers


def predict(unet, pictures, **kwargs):
    x, embedding, numbers = pictures
    with torch.no_grad():
        return unet(x, torch.tensor(300), embedding, class_labels=numbers, **kwargs).sample


def test_without_the_new_layers_it_is_the_stock_unet(folder, pictures):
    unet = load_unet(folder)
    stock = UNet2DConditionModel(
        sample_size=16,
        in_channels=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=24,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        class_embed_type="projection",
        projection_class_embeddings_input_dim=10,
    )
    weights = {k: v for k, v in unet.state_dict().items() if not any(j in k for j in JOINT)}
    stock.load_state_dict(weights, strict=True)
    alone = predict(unet, pictures, cross_attention_kwargs={"cross_domain": False})
    torch.testing.assert_close(alone, predict(stock, pictures))
    assert not torch.allclose(predict(unet, pictures), alone, atol=1e-3)


def test_a_picture_attends_to_its_view_in_the_other_domain_only(folder, pictures):
    unet = load_unet(folder)
    before = predict(unet, pictures)
    changed = pictures[0].clone()
    changed[0] += 1  # the normals of the first view
    difference = (predict(unet, (changed, *pictures[1:])) - before).abs().amax(dim=(1, 2, 3))
    assert (difference[[0, 2]] > 1e-4).all()
    assert (difference[[1, 3]] < 1e-6).all()


def test_attention_over_views_stays_within_a_domain_but_for_the_new_layers(folder, pictures):
    unet = use_cross_view_attention(load_unet(folder), 2)
    alone = {"cross_attention_kwargs": {"cross_domain": False}}
    changed = pictures[0].clone()
    changed[0] += 1
    pairs = [predict(unet, (x, *pictures[1:]), **alone) for x in (pictures[0], changed)]
    difference = (pairs[1] - pairs[0]).abs().amax(dim=(1, 2, 3))
    assert (difference[:2] > 1e-4).all()
    assert (difference[2:] < 1e-6).all()
    pairs = [predict(unet, (x, *pictures[1:])) for x in (pictures[0], changed)]
    assert ((pairs[1] - pairs[0]).abs().amax(dim=(1, 2, 3)) > 1e-4).all()


def test_the_new_layer_attends_to_both_domains_of_a_view(folder):
    (block,) = [m for m in load_unet(folder).mid_block.modules() if hasattr(m, "attn_joint_mid")]
    attn, x = block.attn_joint_mid, torch.randn(6, 5, 32)  # 3 views, normals first
    out = []
    for domain in (0, 1):
        for view in range(3):
            both = torch.cat([x[view], x[3 + view]])
            q, k, v = attn.to_q(x[3 * domain + view]), attn.to_k(both), attn.to_v(both)
            heads = [
                (a @ b.T / a.shape[1] ** 0.5).softmax(dim=1) @ c
                for a, b, c in zip(q.chunk(2, 1), k.chunk(2, 1), v.chunk(2, 1), strict=True)
            ]
            out.append(attn.to_out[0](torch.cat(heads, dim=1)))
    torch.testing.assert_close(attn(x), torch.stack(out))


def test_every_transformer_block_has_the_new_layers(folder):
    names = load_unet(folder).state_dict()
    blocks = {name.split(".attn1.")[0] for name in names if ".attn1." in name}
    joint = {name.split(".attn_joint_mid.")[0] for name in names if ".attn_joint_mid." in name}
    assert len(blocks) == 4 and joint == blocks


def test_the_names_of_the_first_checkpoints_are_read_too(folder, tmp_path, pictures):
    old = build_wonder3d(tmp_path, rename=lambda name: name.replace("joint_mid.", "joint_twice."))
    assert torch.equal(predict(load_unet(old), pictures), predict(load_unet(folder), pictures))


def test_it_is_saved_and_loaded_back(folder, tmp_path, pictures):
    unet = load_unet(folder)
    unet.save_pretrained(tmp_path / "unet")
    again = load_unet(tmp_path)
    assert torch.equal(predict(again, pictures), predict(unet, pictures))
    assert again.config.num_views == 6 and again.config.cd_attention_mid
    assert Wonder3D.recognises(json.loads((tmp_path / "unet" / "config.json").read_text()))


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (lambda n: n.replace("up_blocks.1.attentions.0", "elsewhere"), "missing up_blocks.1.*unk"),
        (lambda n: n.replace("mid_block.attentions.0.norm.", "mid."), "missing mid_block.*unknown"),
        (lambda n: n.replace("attn_joint_mid", "attn_joint_last"), "unknown .*attn_joint_last"),
    ],
)
def test_other_names_are_refused_with_the_names(tmp_path, rename, message):
    with pytest.raises(ValueError, match=message):
        load_unet(build_wonder3d(tmp_path, rename=rename))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"sparse_mv_attention": True}, "sparse_mv_attention=True, a Wonder3D variant"),
        ({"cd_attention_last": True}, "cd_attention_last=True, a Wonder3D variant"),
        ({"multiview_attention": False}, "multiview_attention=False, a Wonder3D variant"),
        (
            {"projection_class_embeddings_input_dim": 6},
            "with 6 inputs.*projection of 10",
        ),
    ],
)
def test_variants_that_differ_are_refused(folder, config, message):
    published = json.loads((folder / "unet" / "config.json").read_text())
    with pytest.raises(ValueError, match=message):
        Wonder3DUNet.from_config(published | config)


def test_a_model_of_the_first_stage_has_no_new_layers(tmp_path):
    folder = build_wonder3d(tmp_path, cd_attention_mid=False)
    assert not any("joint" in name for name in load_unet(folder).state_dict())
