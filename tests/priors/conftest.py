"""Fixtures of these tests."""

from helpers.prior_fixtures import mv_folder, register, sd_folder  # noqa: F401
