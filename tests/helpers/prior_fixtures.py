"""Tiny random priors, written once per test session, and what watches them."""

import pytest
import threestudio
import torch
from threestudio_jointdreamer.priors.loading import load_prior

from jointdreamer.testing.random_priors import build_mvdream, build_stable_diffusion


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory):
    return build_stable_diffusion(tmp_path_factory.mktemp("priors") / "stable-diffusion")


@pytest.fixture(scope="session")
def mv_folder(tmp_path_factory):
    return build_mvdream(tmp_path_factory.mktemp("priors") / "mvdream", seed=1)


@pytest.fixture(scope="session")
def sd_prior(sd_folder):
    return load_prior(sd_folder, torch.device("cpu"), vae_from=sd_folder)


@pytest.fixture
def batch_sizes(monkeypatch):
    """`batch_sizes(unet)`: the batch sizes that it is called with from now on."""

    def watch(unet):
        sizes, forward = [], unet.forward
        monkeypatch.setattr(
            unet, "forward", lambda x, *a, **k: sizes.append(len(x)) or forward(x, *a, **k)
        )
        return sizes

    return watch


@pytest.fixture
def compiled(monkeypatch):
    """The value of `dynamic` of each torch.compile, which does nothing."""
    calls = []
    monkeypatch.setattr(torch, "compile", lambda module, dynamic: calls.append(dynamic) or module)
    return calls


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
