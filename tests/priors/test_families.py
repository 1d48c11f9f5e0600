"""SDXL and Stable Diffusion 3 against diffusers' own pipelines, and which is which."""

import json
import shutil

import pytest
import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionXLPipeline
from threestudio_jointdreamer.priors.latent_prior import LatentPrior
from threestudio_jointdreamer.priors.loading import load_prior
from threestudio_jointdreamer.priors.sd3 import StableDiffusion3
from threestudio_jointdreamer.priors.sdxl import StableDiffusionXL
from threestudio_jointdreamer.prompts.text_encoder import embed_prompts, encode_prompts
from transformers import (
    AutoTokenizer,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5EncoderModel,
)

from jointdreamer.testing.random_priors import build_sd3, build_sdxl

CPU = torch.device("cpu")
PROMPT = "a red bear"


@pytest.fixture(scope="module")
def sdxl_folder(tmp_path_factory):
    return build_sdxl(tmp_path_factory.mktemp("priors") / "sdxl")


@pytest.fixture(scope="module")
def sd3_folder(tmp_path_factory):
    return build_sd3(tmp_path_factory.mktemp("priors") / "sd3")


def pipeline(folder):
    """diffusers', of a folder with or without T5."""
    prior = load_prior(str(folder), CPU, vae_from=str(folder))
    parts = {prior.part: prior.unet, "vae": prior.vae, "scheduler": None}
    if prior.part == "unet":
        kind, encoders = StableDiffusionXLPipeline, (CLIPTextModel, CLIPTextModelWithProjection)
    else:
        kind = StableDiffusion3Pipeline
        encoders = (CLIPTextModelWithProjection, CLIPTextModelWithProjection, T5EncoderModel)
    for suffix, encoder in zip(("", "_2", "_3"), encoders, strict=False):
        loaders = {f"tokenizer{suffix}": AutoTokenizer, f"text_encoder{suffix}": encoder}
        for name, loader in loaders.items():
            here = (folder / name).is_dir()
            parts[name] = loader.from_pretrained(folder / name) if here else None
    return kind(**parts)


def as_one(embeddings, pooled):
    filled = torch.nn.functional.pad(pooled, (0, embeddings.shape[-1] - pooled.shape[-1]))
    return torch.cat([embeddings, filled[:, None]], dim=1)


def test_sdxl_is_told_what_its_pipeline_tells_it(sdxl_folder):
    pipe = pipeline(sdxl_folder)
    text, none, pooled, none_pooled = pipe.encode_prompt(PROMPT, device=CPU)
    ours = embed_prompts(str(sdxl_folder), [PROMPT, ""], CPU)
    theirs = as_one(torch.cat([text, none]), torch.cat([pooled, none_pooled]))
    torch.testing.assert_close(ours, theirs)

    prior = load_prior(str(sdxl_folder), CPU)
    assert type(prior) is StableDiffusionXL
    x, t = torch.randn(2, 4, 16, 16), torch.tensor([10, 900])
    size = (128, 128)  # of an SDXL with these latents, whose VAE would halve pixels three times
    ids = pipe._get_add_time_ids(size, (0, 0), size, text.dtype, text_encoder_projection_dim=48)
    told = {"text_embeds": torch.cat([pooled, none_pooled]), "time_ids": ids.repeat(2, 1)}
    with torch.no_grad():
        expected = prior.unet(x, t, torch.cat([text, none]), added_cond_kwargs=told).sample
        torch.testing.assert_close(prior.predict_noise(x, t, ours), expected)

    (sdxl_folder / "model_index.json").write_text(json.dumps({"force_zeros_for_empty_prompt": 0}))
    assert embed_prompts(str(sdxl_folder), [""], CPU).abs().sum() > 0
    (sdxl_folder / "model_index.json").unlink()


@pytest.mark.parametrize("t5", [True, False])
def test_sd3_is_told_what_its_pipeline_tells_it(sd3_folder, tmp_path, t5):
    folder = sd3_folder if t5 else build_sd3(tmp_path / "clip", t5=False)
    text, _, pooled, _ = pipeline(folder).encode_prompt(PROMPT, PROMPT, PROMPT, device=CPU)
    ours = embed_prompts(str(folder), [PROMPT], CPU)
    torch.testing.assert_close(ours, as_one(text, pooled))
    without = encode_prompts(str(sd3_folder), [PROMPT], CPU, t5=False)[0].hidden[None]
    assert without.shape == ours.shape and without[:, 24:-1].abs().sum() == 0

    prior = load_prior(str(folder), CPU, vae_from=str(folder))
    assert type(prior) is StableDiffusion3 and (prior.latent_channels, prior.image_size) == (16, 64)
    x_t, t = torch.randn(1, 16, 16, 16), torch.tensor([700])
    sigma = prior.schedule.sigma(t, x_t)
    with torch.no_grad():
        v = prior.unet(x_t, text, pooled, 1000 * sigma.flatten()).sample
        eps = prior.predict_noise(x_t, t, ours)
    torch.testing.assert_close(prior.schedule.denoise(x_t, eps, t), x_t - sigma * v)


def test_sd3s_latents_are_centred_and_scaled(sd3_folder):
    prior = load_prior(str(sd3_folder), CPU, vae_from=str(sd3_folder))
    rgb = torch.rand(1, 3, 64, 64)
    mean = prior.vae.encode(rgb * 2 - 1).latent_dist.mean
    torch.testing.assert_close(prior.encode(rgb, sample=False), (mean - 0.1) * 0.5)
    pictures = prior.vae.decode(mean).sample / 2 + 0.5
    torch.testing.assert_close(prior.decode((mean - 0.1) * 0.5), pictures.clamp(0, 1))


def test_each_family_is_known_by_its_own_config(sd_folder, sdxl_folder, sd3_folder, tmp_path):
    assert type(load_prior(str(sd_folder), CPU)) is LatentPrior
    text = embed_prompts(str(sdxl_folder), [PROMPT], CPU)
    x, t = torch.randn(1, 4, 16, 16), torch.tensor([5])
    with pytest.raises(ValueError, match="embeddings are 96 wide but the UNet attends to 128"):
        load_prior(str(sd_folder), CPU).predict_noise(x, t, text)
    flux = shutil.copytree(sd3_folder / "transformer", tmp_path / "transformer")
    (flux / "config.json").write_text('{"_class_name": "FluxTransformer2DModel"}')
    with pytest.raises(ValueError, match="holds a FluxTransformer2DModel: use Stable Diffusion"):
        load_prior(str(tmp_path), CPU)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(FileNotFoundError, match="no folder unet/"):
        load_prior(str(tmp_path / "nothing"), CPU)
