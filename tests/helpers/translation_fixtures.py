"""The translation energy with tiny models of each kind, and views that all of them can serve."""

from dataclasses import replace

import pytest
import torch
from helpers.views import random_views
from threestudio_jointdreamer.energies.translation import TranslationEnergy

from jointdreamer.testing.random_image_priors import build_wonder3d, build_zero123

KINDS = ["wonder3d", "zero123"]


@pytest.fixture(scope="module")
def image_priors(tmp_path_factory):
    root = tmp_path_factory.mktemp("priors")
    return {
        "wonder3d": build_wonder3d(root / "wonder3d"),
        "zero123": build_zero123(root / "zero123", seed=1),
    }


def make_views(prior, **kwargs):
    """Views on a level circle, turned by another angle for each object."""
    views = random_views(prior, **kwargs)
    turned = views.azimuth + 30 * torch.arange(len(views.azimuth))[:, None]
    return replace(views, elevation=torch.zeros_like(views.elevation), azimuth=turned)


@pytest.fixture
def level_views(sd_prior):
    return make_views(sd_prior)


@pytest.fixture
def make_translation(image_priors):
    def make(kind="wonder3d", **cfg):
        cfg = {
            "noise": "shared",
            "pretrained_model_name_or_path": str(image_priors[kind]),
            "mask_with_opacity": False,
            "white_background": False,
        } | cfg
        return TranslationEnergy(cfg)

    return make
