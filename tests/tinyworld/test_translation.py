"""The tiny image-to-views prior: what it learns from, how it is trained, and what loads it."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.views import random_views
from omegaconf import OmegaConf
from PIL import Image
from threestudio_jointdreamer.energies.translation import TranslationEnergy
from threestudio_jointdreamer.priors.image_prior import (
    CLIP_MEAN,
    CLIP_STD,
    load_image_prior,
)
from threestudio_jointdreamer.priors.loading import load_prior
from transformers import CLIPModel

from jointdreamer.cli import main
from jointdreamer.testing.random_image_priors import build_wonder3d
from jointdreamer.tinyworld import sampling, stages, translation
from jointdreamer.tinyworld.dataset import make_pictures
from jointdreamer.tinyworld.sampling import sample_views, true_views

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "load" / "tiny"
CPU = torch.device("cpu")
CONFIG = OmegaConf.load(ROOT / "configs" / "tiny" / "translation.yaml").system.guidance.energy


@pytest.fixture(scope="module")
def random_prior(tmp_path_factory):
    return load_image_prior(str(build_wonder3d(tmp_path_factory.mktemp("random"))), CPU)


@pytest.fixture(scope="module")
def clip():
    return CLIPModel.from_pretrained(SHIPPED / "clip", dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of weights after two steps of the stage, and the stage's report."""
    root = tmp_path_factory.mktemp("trained")
    for name in ("stable-diffusion", "clip"):
        (root / name).symlink_to(SHIPPED / name)
    return root, stages.train("wonder3d", root, "cpu", steps=2, pictures=4, batch=2)


def test_image_encoder_sees_usual_pixels_as_clip_sees_its_own(clip):
    rgb = make_pictures(3, 0, "cpu", encode=lambda rgb: rgb).images
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (CLIP_MEAN, CLIP_STD))
    with torch.no_grad():
        expected = clip.visual_projection(clip.vision_model(rgb * 2 - 1).pooler_output)
        encoder = translation.image_encoder_of(clip)
        found = encoder((rgb - mean) / std).image_embeds
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_view_sets_show_accessories_and_half_of_the_references_as_they_are(
    random_prior, monkeypatch
):
    asked, options = [], []
    make = translation.make_pictures

    def recorded(*args, **kwargs):
        options.append(kwargs)
        asked.append(make(*args, **kwargs))
        return asked[-1]

    monkeypatch.setattr(translation, "make_pictures", recorded)
    monkeypatch.setattr(translation, "CHUNK", 4)
    latents, reference = translation.view_sets(9, 3, random_prior)
    assert latents.shape == (9, 4, 4, 16, 16) and len(reference.embedding) == 9
    assert [len(pictures.captions) for pictures in asked] == [4, 4, 1]
    assert all(option.get("show_accessories", True) for option in options)
    assert not torch.equal(asked[0].images, asked[1].images)

    away = (latents[:, 0] - reference.latents).float().abs().amax(dim=(1, 2, 3))
    assert 2 <= (away < 0.02).sum() <= 7
    position = torch.cat([pictures.c2w for pictures in asked])[::4, :3, 3]
    from_front = torch.atan2(position[:, 1], position[:, 0]).abs()
    assert from_front.max() < math.radians(translation.REFERENCE_DEG) + 1e-4

    again, seen_again = translation.view_sets(9, 3, random_prior)
    other, _ = translation.view_sets(1, 4, random_prior)
    assert torch.equal(again, latents)
    assert torch.equal(seen_again.latents, reference.latents)
    assert not torch.equal(other, latents[:1])


def test_soft_pictures_lose_detail_but_not_their_places_and_colours():
    pictures = torch.full((64, 3, 64, 64), 0.2)
    pictures[:, 0, 16:48, 16:48] = 0.9
    pictures[:, 0, 30:34, 30:34] = 0.1
    softened = translation.soft(pictures, torch.Generator().manual_seed(0))
    assert softened.min() >= 0 and softened.max() <= 1
    block = softened[:, :, 20:28, 20:28].mean(dim=(2, 3))
    corner = softened[:, :, :12, :12].mean(dim=(2, 3))
    assert (block[:, 0] > corner[:, 0] + 0.3).all()  # at least half of it is left
    torch.testing.assert_close(block[:, 1:], corner[:, 1:], atol=0.03, rtol=0)
    dot = block[:, 0] - softened[:, 0, 31:33, 31:33].mean(dim=(1, 2))
    assert dot.min() < 0.15 and dot.max() > 0.6  # from lost in the blur to as it was


def test_stage_reports_its_losses_and_ships_what_the_energy_loads(trained):
    root, report = trained
    assert report["steps"] == 2 and (root / "training-wonder3d.json").is_file()
    for name in ("held_out_loss", "held_out_loss_without_reference"):
        assert math.isfinite(report[name])
    weights = root / "wonder3d" / "unet" / "diffusion_pytorch_model.safetensors"
    assert weights.stat().st_size < 4 * 2**20
    assert not list(root.glob(".*")), "temporary files were left behind"

    energy = CONFIG | {  # as the config has it, but for the folder
        "pretrained_model_name_or_path": str(root / "wonder3d"),
    }
    energy = TranslationEnergy(energy)
    assert energy.image_prior.kind == "wonder3d"
    sd = str(SHIPPED / "stable-diffusion")
    views = random_views(load_prior(sd, CPU, vae_from=sd), n_object=2, n_view=4)
    for elevation in (0.0, 30.0):
        views = replace(views, elevation=torch.full_like(views.elevation, elevation))
        (g,) = torch.autograd.grad(energy(views).sum(), views.denoised)
        moved = (g.abs().amax(dim=(2, 3, 4)) > 0).sum(dim=1)
        assert g.isfinite().all() and moved.tolist() == [3, 3]  # all but the reference


def test_without_an_earlier_stage_s_model_the_error_says_what_to_train(tmp_path):
    with pytest.raises(FileNotFoundError, match="tinyworld train vae"):
        stages.train("wonder3d", tmp_path, "cpu", steps=1, pictures=2, batch=1)
    (tmp_path / "stable-diffusion").symlink_to(SHIPPED / "stable-diffusion")
    with pytest.raises(FileNotFoundError, match="tinyworld train clip"):
        stages.train("wonder3d", tmp_path, "cpu", steps=1, pictures=2, batch=1)
    assert not (tmp_path / "wonder3d").exists()


def test_samples_of_a_seed_are_the_same_and_depend_on_the_reference(trained):
    root, _ = trained
    truth = true_views(["a red bear", "a blue duck with a white backpack"])
    assert truth.shape == (2, 4, 3, 64, 64)
    assert (truth[0, 0] - truth[1, 0]).abs().max() > 0.3
    one, two = (sample_views(root, "wonder3d", truth, steps=1) for _ in range(2))
    assert one.shape == truth.shape and torch.equal(one, two)
    other = sample_views(root, "wonder3d", truth.flip(0), steps=1)
    assert not torch.equal(one, other)


def test_sheet_has_the_reference_the_predictions_and_the_truth(trained, tmp_path, monkeypatch):
    black = torch.zeros(1, 4, 3, 64, 64)
    monkeypatch.setattr(sampling, "sample_views", lambda *args, **kwargs: black)
    options = f"--root {trained[0]} --out {tmp_path} --prior wonder3d --azimuth 30"
    assert main(["tinyworld", "samples", *options.split(), "--prompt", "a red bear"]) == 0
    sheet = Image.open(tmp_path / "samples-wonder3d.png")
    assert sheet.width > 7 * 96 > sheet.height
    tiles = np.asarray(sheet.convert("L"))
    centres = [tiles[73, sheet.width - 102 * (7 - column) + 48] for column in range(7)]
    assert [value == 0 for value in centres] == [False, True, True, True, False, False, False]


def test_reference_tells_what_the_other_views_look_like():
    shipped = load_image_prior(
        str(SHIPPED / "wonder3d"), CPU, vae_from=str(SHIPPED / "stable-diffusion")
    )
    with_it, without_it = translation.held_out_losses(shipped, 16, seed=4242)
    assert with_it < 0.8 * without_it
