"""`lora_name_or_path`: W + scale · B A on the prior's UNet."""

import pytest
import torch
from safetensors.torch import save_file
from threestudio_jointdreamer.priors.lora import FILE

from jointdreamer.testing.random_priors import build_sd3, build_sdxl

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
DIFFUSERS = f"unet.{LAYER}.lora_A.weight", f"unet.{LAYER}.lora_B.weight"
KOHYA = f"lora_unet_{LAYER.replace('.', '_')}"


@pytest.fixture
def lora(make_guidance):
    """The plain weights of a layer, and A and B that fit it."""
    weight = make_guidance().prior.unet.get_submodule(LAYER).weight.clone()
    return weight, torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2)


def weight_of(guidance):
    return guidance.prior.unet.get_submodule(LAYER).weight


def test_diffusers_layout_in_a_folder(make_guidance, lora, tmp_path):
    weight, a, b = lora
    save_file(dict(zip(DIFFUSERS, (a, b), strict=True)), tmp_path / FILE)
    plain = make_guidance()
    changed = make_guidance(lora_name_or_path=str(tmp_path), lora_scale=0.5)
    torch.testing.assert_close(weight_of(changed), weight + 0.5 * b @ a)
    assert torch.equal(weight_of(plain), weight) and torch.equal(weight_of(make_guidance()), weight)
    assert set(changed.prior.unet.state_dict()) == set(plain.prior.unet.state_dict())


def test_kohyas_layout_has_an_alpha_and_its_text_encoders_part_is_told(
    make_guidance, lora, tmp_path, caplog
):
    weight, a, b = lora
    text = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    tensors = {f"{KOHYA}.lora_down.weight": a, f"{KOHYA}.lora_up.weight": b}
    tensors |= {f"{KOHYA}.alpha": torch.tensor(1.0), f"{text}.alpha": torch.tensor(1.0)}
    tensors |= {f"{text}.lora_down.weight": torch.ones(2, 8)}
    tensors |= {f"{text}.lora_up.weight": torch.ones(8, 2)}
    save_file(tensors, tmp_path / "style.safetensors")
    changed = make_guidance(lora_name_or_path=str(tmp_path / "style.safetensors"))
    torch.testing.assert_close(weight_of(changed), weight + 0.5 * b @ a)
    assert "The text encoder's part" in caplog.text


@pytest.mark.parametrize(
    ("rename", "width", "said"),
    [
        (lambda name: name, 7, "size mismatch"),
        (lambda name: name.replace("down_blocks.0", "down_blocks.9"), None, "not found"),
        (lambda name: name.replace("unet.", "transformer."), None, "no part for a UNet"),
    ],
)
def test_a_lora_of_another_model_is_refused(make_guidance, lora, tmp_path, rename, width, said):
    _, a, b = lora
    tensors = {rename(DIFFUSERS[0]): a[:, :width].contiguous(), rename(DIFFUSERS[1]): b}
    save_file(tensors, tmp_path / FILE)
    with pytest.raises(ValueError, match=rf"guidance\.lora_name_or_path.*no LoRA of.*{said}"):
        make_guidance(lora_name_or_path=str(tmp_path))


def test_a_lora_with_more_than_this_unet_has_is_refused(make_guidance, lora, tmp_path):
    _, a, b = lora
    tensors = dict(zip(DIFFUSERS, (a, b), strict=True))
    more = {
        name.replace("down_blocks.0", "down_blocks.9"): x.clone() for name, x in tensors.items()
    }
    save_file(tensors | more, tmp_path / FILE)
    with pytest.raises(ValueError, match="4 tensors are for the UNet, which has room for 2"):
        make_guidance(lora_name_or_path=str(tmp_path))


def test_without_peft_it_says_what_to_install(make_guidance, monkeypatch):
    monkeypatch.setattr("threestudio_jointdreamer.priors.lora.is_peft_available", lambda: False)
    with pytest.raises(ValueError, match=r"needs peft: pip install .*\[lora\]"):
        make_guidance(lora_name_or_path="someone/style")


def test_a_damaged_or_missing_file_is_named(make_guidance, lora, tmp_path):
    with pytest.raises(FileNotFoundError, match=FILE):
        make_guidance(lora_name_or_path=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="Of a repository on the hub name the file"):
        make_guidance(lora_name_or_path="someone/style")
    (tmp_path / FILE).write_bytes(b"nothing")
    with pytest.raises(ValueError, match=FILE):
        make_guidance(lora_name_or_path=str(tmp_path))


@pytest.mark.parametrize(
    ("build", "layer", "part"),
    [
        (build_sdxl, "mid_block.attentions.0.transformer_blocks.0.attn1.to_q", "unet"),
        (build_sd3, "transformer_blocks.0.attn.to_q", "transformer"),
    ],
)
def test_sdxl_and_sd3_take_loras_of_their_own(make_guidance, lora, tmp_path, build, layer, part):
    prior = str(build(tmp_path / "prior"))
    plain = make_guidance(pretrained_model_name_or_path=prior)
    weight = plain.prior.unet.get_submodule(layer).weight
    a, b = torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2)
    names = f"{part}.{layer}.lora_A.weight", f"{part}.{layer}.lora_B.weight"
    save_file(dict(zip(names, (a, b), strict=True)), tmp_path / FILE)
    lora = {"lora_name_or_path": str(tmp_path), "lora_scale": 0.5}
    changed = make_guidance(pretrained_model_name_or_path=prior, **lora)
    found = changed.prior.unet.get_submodule(layer).weight
    torch.testing.assert_close(found, weight + 0.5 * b @ a)
    with pytest.raises(ValueError, match="is no LoRA of this prior's UNet"):
        make_guidance(lora_name_or_path=str(tmp_path))


def test_latents_may_be_of_another_size_than_the_models(make_guidance, prompts, cameras, rgb):
    out = make_guidance(latent_size=12)
    x = out.distil(rgb, prompts, cameras)[0]
    assert x.shape[-2:] == (12, 12)
