"""The tiny ImageDream: what it learns from, and pictures of creatures as prompts."""

from pathlib import Path

import torch
from threestudio_jointdreamer.priors.imagedream import ImageDream, load_image_encoder
from threestudio_jointdreamer.priors.loading import load_prior
from threestudio_jointdreamer.prompts.image import OBJECT_SHARE, read_image_prompt
from threestudio_jointdreamer.prompts.text_encoder import embed_prompts

from jointdreamer.cli import main
from jointdreamer.tinyworld.image_prompts import centred, held_out_losses, prompted_views

SHIPPED, CPU = Path(__file__).resolve().parents[2] / "load" / "tiny", torch.device("cpu")


def square(size: int, low: int, high: int, left: int, colour) -> tuple[torch.Tensor, torch.Tensor]:
    """A rectangle before black, and before white."""
    covered = torch.zeros(1, 1, size, size)
    covered[..., low:high, left : left + (high - low) // 2] = 1
    before_black = covered * torch.tensor(colour).view(1, 3, 1, 1)
    return before_black, before_black + 1 - covered


def test_objects_are_cut_out_and_centred_at_the_size_that_prompts_have():
    renders = [square(64, 10, 30, 40, (0.8, 0.2, 0.1)), square(64, 4, 60, 2, (0.1, 0.2, 0.9))]
    black, white = (torch.cat(x) for x in zip(*renders, strict=True))
    for rgba, colour in zip(centred(black, white), ((0.8, 0.2, 0.1), (0.1, 0.2, 0.9)), strict=True):
        seen = rgba[3] > 0.5
        rows, columns = seen.any(dim=1).nonzero(), seen.any(dim=0).nonzero()
        assert abs(len(rows) - OBJECT_SHARE * 64) <= 2
        assert abs(len(columns) - OBJECT_SHARE * 32) <= 2
        for line in (rows, columns):
            assert abs(line.float().mean() - 31.5) <= 1
        torch.testing.assert_close(rgba[:3, 32, 32], torch.tensor(colour))


def test_a_picture_of_a_creature_is_written_that_serves_as_a_prompt(tmp_path):
    path = tmp_path / "bear.png"
    assert main(["tinyworld", "picture", "a green bear wearing a red hat", "--out", str(path)]) == 0
    image = read_image_prompt(str(path), "system.prompt_processor.image")
    hat, belly = image[:3, 64, 256], image[:3, 320, 256]
    assert hat.argmax() == 0 and belly.argmax() == 1


def test_the_shipped_model_sees_in_the_picture_what_the_text_leaves_out():
    sd, wonder3d = str(SHIPPED / "stable-diffusion"), str(SHIPPED / "wonder3d")
    prior = load_prior(str(SHIPPED / "imagedream"), CPU, vae_from=sd)
    encoder = load_image_encoder(wonder3d, "key", CPU, torch.float32)
    model = ImageDream(prior, "shipped", encoder)
    seen = prompted_views(6, 99, model, prior)
    no_text = embed_prompts(sd, [""], CPU).expand(6, -1, -1)
    with_it, without_it = held_out_losses(model, seen, no_text, seed=0)
    assert with_it < 0.9 * without_it
