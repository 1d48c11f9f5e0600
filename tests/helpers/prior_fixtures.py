"""Tiny random priors as pytest fixtures, written once per test session."""

import pytest
import threestudio

from jointdreamer.testing.random_priors import build_mvdream, build_stable_diffusion


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory):
    return build_stable_diffusion(tmp_path_factory.mktemp("priors") / "stable-diffusion")


@pytest.fixture(scope="session")
def mv_folder(tmp_path_factory):
    return build_mvdream(tmp_path_factory.mktemp("priors") / "mvdream", seed=1)


@pytest.fixture
def register():
    """Registers classes for the length of one test."""
    names = []

    def decorator(name):
        names.append(name)
        return threestudio.register(name)

    yield decorator
    for name in names:
        threestudio.__modules__.pop(name, None)
