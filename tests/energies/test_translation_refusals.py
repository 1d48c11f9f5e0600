"""What the translation energy refuses, and what it says then."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers.translation_fixtures import make_views
from threestudio_jointdreamer.priors.schedule import NoiseSchedule


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


def test_renders_are_needed(make_translation, sd_prior):
    with pytest.raises(ValueError, match="looks at a render, but with rgb_as_latents there are"):
        make_translation()(make_views(sd_prior, rgb=None))


def test_one_view_is_refused(make_translation, sd_prior):
    with pytest.raises(ValueError, match="system.guidance.n_view=1: use 2 or more"):
        make_translation()(make_views(sd_prior, n_view=1))


def test_latents_of_other_channels_are_refused(make_translation, level_views):
    other = torch.zeros(2, 4, 16, 16, 16)
    with pytest.raises(ValueError, match="latents of 4 channels, the 2D prior of 16"):
        make_translation(noise="fresh")(replace(level_views, denoised=other))


def test_another_number_of_timesteps_is_refused(make_translation, level_views):
    other = NoiseSchedule(torch.linspace(0.999, 0.001, 500))
    with pytest.raises(ValueError, match="1000 timesteps, the 2D prior 500"):
        make_translation(noise="fresh")(replace(level_views, prior=SimpleNamespace(schedule=other)))


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"reference": "back"}, "energy.reference='back': use one of first, frontal, random"),
        ({"strength": 1.5}, "energy.strength=1.5 leaves the range from 0.0 to 1.0"),
        ({"num_inference_steps": 0}, "energy.num_inference_steps=0 must be 1 or more"),
        ({"noise": "old"}, "energy.noise='old': use one of shared, fresh"),
        ({"azimuth_tolerance": -1.0}, "energy.azimuth_tolerance=-1.0 must not be below 0"),
    ],
)
def test_unknown_values_are_refused(make_translation, cfg, message):
    with pytest.raises(ValueError, match=message):
        make_translation(**cfg)


def test_missing_weights_name_the_energys_key(make_translation):
    with pytest.raises(FileNotFoundError, match="energy.pretrained_model_name_or_path='/nowhere'"):
        make_translation(pretrained_model_name_or_path="/nowhere")


def test_a_text_to_image_model_is_refused(make_translation, sd_folder):
    with pytest.raises(ValueError, match="energy.pretrained_model.* holds no image-to-image model"):
        make_translation(pretrained_model_name_or_path=str(sd_folder))


def test_a_strength_of_less_than_a_timestep_is_refused(make_translation, level_views):
    with pytest.raises(ValueError, match="energy.strength=0 is less than one"):
        make_translation(strength=0.0)(level_views)
