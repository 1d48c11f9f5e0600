"""`vae_name_or_path`: another VAE of the same latents."""

import pytest
import torch
from diffusers import AutoencoderTiny


@pytest.fixture
def tiny_vae(tmp_path):
    widths, blocks = (8, 8, 8), (1, 1, 1)
    vae = AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=blocks,
        num_decoder_blocks=blocks,
    )
    vae.save_pretrained(tmp_path / "taesd")
    return vae, tmp_path / "taesd"


@pytest.mark.parametrize("memory", ["normal", "low"])
def test_a_folder_that_is_an_autoencoder_tiny_encodes_the_views(
    make_guidance, tiny_vae, prompts, cameras, rgb, memory
):
    vae, folder = tiny_vae
    guidance = make_guidance(vae_name_or_path=str(folder), memory=memory)
    images = torch.nn.functional.interpolate(rgb.permute(0, 3, 1, 2), (64, 64), mode="bilinear")
    expected = vae.encode(images * 2 - 1).latents
    x, *_ = guidance.distil(rgb, prompts, {**cameras, "fovy": None})
    torch.testing.assert_close(x, expected)
    decoded = guidance.prior.decode(x)
    torch.testing.assert_close(decoded, (vae.decode(x).sample / 2 + 0.5).clamp(0, 1))


def test_another_models_vae_is_taken_from_its_folder(make_guidance, sd_folder, tiny_vae):
    guidance = make_guidance(vae_name_or_path=str(sd_folder))
    assert type(guidance.prior.vae).__name__ == "AutoencoderKL"


def test_other_kinds_are_refused(make_guidance, tiny_vae):
    config = tiny_vae[1] / "config.json"
    config.write_text(config.read_text().replace("AutoencoderTiny", "AsymmetricAutoencoderKL"))
    with pytest.raises(ValueError, match=r"guidance\.vae_name_or_path.*AutoencoderKL or Auto"):
        make_guidance(vae_name_or_path=str(tiny_vae[1]))
