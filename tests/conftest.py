"""A host and the extension for every test; tiny random priors, and what watches them."""

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
for path in (ROOT, ROOT / "tests"):
    if str(path) not in sys.path:
        sys.path.insert(0, str(path))

from jointdreamer.host.selection import ensure_host, load_extension  # noqa: E402

torch.set_num_threads(min(2, torch.get_num_threads()))
ensure_host()
load_extension()

import threestudio  # noqa: E402
from threestudio_jointdreamer.priors.loading import load_prior  # noqa: E402

from jointdreamer.testing.random_priors import (  # noqa: E402
    build_mvdream,
    build_stable_diffusion,
)


@pytest.fixture(autouse=True)
def same_random_numbers_in_any_order():
    torch.manual_seed(0)


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
