"""What the energies refuse, and what they say then."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers.translation_fixtures import make_views
from helpers.views import random_views
from threestudio_jointdreamer.priors.schedule import NoiseSchedule


@pytest.fixture
def make_energy(make_multiview, make_translation, make_classifier):
    makers = {"multiview": make_multiview, "classifier": make_classifier}
    makers["translation"] = make_translation
    return lambda kind, **cfg: makers[kind](**cfg)


@pytest.mark.parametrize(
    ("kind", "cfg", "message"),
    [
        ("multiview", {"noise": "old"}, "noise='old': use one of shared, fresh"),
        ("multiview", {"mask_with_opacity": "both"}, "'both': use false, true or noisy"),
        ("translation", {"reference": "back"}, "reference='back': use one of first, frontal, rand"),
        ("translation", {"strength": 1.5}, "strength=1.5 leaves the range from 0.0 to 1.0"),
        ("translation", {"num_inference_steps": 0}, "num_inference_steps=0 must be 1 or more"),
        ("translation", {"noise": "old"}, "noise='old': use one of shared, fresh"),
        ("translation", {"azimuth_tolerance": -1.0}, "azimuth_tolerance=-1.0 must not be below 0"),
        ("classifier", {"output": "odds"}, "output='odds': use one of logit, log_sigmoid"),
        ("classifier", {"decode_latent_size": 0}, "decode_latent_size=0 must be 1 or more"),
        ("classifier", {"reference": "back"}, "reference='back': use one of null, first"),
    ],
)
def test_unknown_values_are_refused(make_energy, kind, cfg, message):
    with pytest.raises(ValueError, match=f"energy.*{message}"):
        make_energy(kind, **cfg)


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("multiview", "pretrained_model_name_or_path"),
        ("translation", "pretrained_model_name_or_path"),
        ("classifier", "pretrained_model_name_or_path"),
        ("classifier", "backbone_name_or_path"),
    ],
)
def test_missing_weights_name_the_energys_key(make_energy, kind, key):
    with pytest.raises(FileNotFoundError, match=f"energy.{key}='/nowhere'"):
        make_energy(kind, **{key: "/nowhere"})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("multiview", "holds no multi-view UNet.*class_embed_type=projection"),
        ("translation", "energy.pretrained_model.* holds no image-to-image model"),
    ],
)
def test_a_text_to_image_model_is_refused(make_energy, sd_folder, kind, message):
    with pytest.raises(ValueError, match=message):
        make_energy(kind, pretrained_model_name_or_path=str(sd_folder))


@pytest.mark.parametrize("kind", ["classifier", "translation"])
def test_a_single_view_is_refused(make_energy, sd_prior, kind):
    with pytest.raises(ValueError, match="system.guidance.n_view"):
        make_energy(kind)(random_views(sd_prior, n_view=1))


@pytest.mark.parametrize(
    ("kind", "cfg", "message"),
    [
        ("multiview", {"mask_with_opacity": True}, "mask_with_opacity=True, but the system does"),
        ("translation", {"white_background": True}, "white_background=true, but the system does"),
    ],
)
def test_what_needs_the_opacity_says_so(make_energy, sd_prior, kind, cfg, message):
    with pytest.raises(ValueError, match=message):
        make_energy(kind, **cfg)(make_views(sd_prior, opacity=None))


@pytest.mark.parametrize("kind", ["multiview", "translation"])
def test_another_number_of_timesteps_is_refused(make_energy, level_views, kind):
    other = SimpleNamespace(schedule=NoiseSchedule(torch.linspace(0.999, 0.001, 500)))
    with pytest.raises(ValueError, match="1000 timesteps, the 2D prior 500"):
        make_energy(kind, noise="fresh")(replace(level_views, prior=other))


def test_layouts_that_wonder3d_cannot_serve_are_refused_and_zero123_takes_them(
    make_translation, sd_prior
):
    views = make_views(sd_prior, n_view=3)
    with pytest.raises(ValueError, match="120.0° of azimuth"):
        make_translation()(views)
    assert make_translation("zero123")(views).shape == (2,)
    steep = replace(make_views(sd_prior), elevation=torch.full((2, 4), 25.0))
    with pytest.raises(ValueError, match="elevation 25.0°"):
        make_translation()(steep)
    assert make_translation(elevation_tolerance=30.0)(steep).shape == (2,)


def test_translation_needs_renders(make_translation, sd_prior):
    with pytest.raises(ValueError, match="looks at a render, but with rgb_as_latents there are"):
        make_translation()(make_views(sd_prior, rgb=None))


def test_latents_of_other_channels_are_refused(make_translation, level_views):
    other = torch.zeros(2, 4, 16, 16, 16)
    with pytest.raises(ValueError, match="latents of 4 channels, the 2D prior of 16"):
        make_translation(noise="fresh")(replace(level_views, denoised=other))


def test_a_strength_of_less_than_a_timestep_is_refused(make_translation, level_views):
    with pytest.raises(ValueError, match="energy.strength=0 is less than one"):
        make_translation(strength=0.0)(level_views)
