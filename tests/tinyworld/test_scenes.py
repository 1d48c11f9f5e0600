"""Scenes of two creatures, and the LoRAs that are trained on them."""

import shutil
from pathlib import Path

import pytest
import torch
from threestudio_jointdreamer.priors.loading import load_prior
from threestudio_jointdreamer.priors.lora import fuse_lora

from jointdreamer.tinyworld.captions import parse
from jointdreamer.tinyworld.creatures import COLOR_NAMES, COLORS
from jointdreamer.tinyworld.scene_stages import SceneStage
from jointdreamer.tinyworld.scenes import four_view_scenes, make_scenes, parts_of

SHIPPED = Path(__file__).resolve().parents[2] / "load" / "tiny"


def nearest_color(pixels):
    """The name of the colour of most pixels [3 n] that are no background."""
    palette = torch.tensor(list(COLORS.values()))
    dark = pixels.T[pixels.T.max(dim=1).values < 0.8]  # the background is bright
    return COLOR_NAMES[torch.cdist(dark, palette).argmin(dim=1).mode().values]


def test_the_first_of_two_stands_on_the_left_of_the_front_view():
    def front(n, generator):
        return torch.zeros(n)

    seen = make_scenes(60, 3, "cpu", azimuths=front, encode=lambda rgb: rgb)
    assert seen.images.shape == (60, 3, 96, 96)
    checked = 0
    for text, image in zip(seen.captions[:30], seen.images[:30], strict=True):
        wanted = [COLOR_NAMES[parse(part).color] for part in parts_of(text)]
        plain = image[:, 0, 0].min() > 0.84  # not one of the coloured backgrounds
        if plain and {*wanted} <= {"red", "green", "blue", "purple"}:
            halves = image[..., :48].flatten(1), image[..., 48:].flatten(1)
            assert [nearest_color(half) for half in halves] == wanted
            checked += 1
    assert checked


def test_two_wear_nothing_and_have_two_colours_and_half_are_alone():
    seen = four_view_scenes(12, 5, "cpu", encode=lambda rgb: rgb[:, :, ::48, ::48])
    assert seen.images.shape == (48, 3, 2, 2)
    for text in seen.captions[:6]:
        first, second = (parse(part).rows()[0] for part in parts_of(text))
        assert first[1] != second[1] and first[2:] == second[2:] == (-1, -1, False)
    assert any("wearing" in text or "with" in text for text in seen.captions[6:])
    for text in seen.captions[6:]:
        parse(text)


@pytest.mark.parametrize("prompt", ["a red bear", "a red bear and a cat and a dog"])
def test_what_is_no_scene_is_refused(prompt):
    with pytest.raises(ValueError, match="join two creatures by ' and '"):
        parts_of(prompt)


def test_the_written_lora_makes_the_trained_model_of_the_shipped_one(tmp_path):
    shutil.copytree(SHIPPED / "stable-diffusion", tmp_path / "stable-diffusion")
    stage = SceneStage(tmp_path, 2, 0, "cpu")
    trained = [p for p in stage.model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) < 1.5e6
    torch.manual_seed(0)
    with torch.no_grad():
        for p in trained:
            p += 0.01 * torch.randn_like(p)
    stage.model.half().float()  # as it is written
    rows, t = torch.tensor([0, 1]), torch.tensor([300, 700])
    x = stage.latents.float()
    with torch.no_grad():
        expected = stage.predict_noise(x, t, rows, torch.ones(2, dtype=torch.bool))[:, 0]
        stage.save(tmp_path)
        cpu, name = torch.device("cpu"), str(tmp_path / stage.name)
        lora = {"name_or_path": name, "scale": 1.0}
        folder = str(tmp_path / "stable-diffusion")
        plain = load_prior(folder, cpu).predict_noise(x[:, 0], t, stage.text.float())
        made = load_prior(folder, cpu, change=lambda unet: fuse_lora(unet, **lora))
        found = made.predict_noise(x[:, 0], t, stage.text.float())
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)
    assert (plain - expected).abs().max() > 0.05
