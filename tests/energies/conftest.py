"""Fixtures of these tests."""

from helpers.prior_fixtures import mv_folder, register, sd_folder  # noqa: F401
from helpers.translation_fixtures import (  # noqa: F401
    image_priors,
    level_views,
    make_translation,
    sd_prior,
)
