"""Pictures as a 2D prior denoises them in one step."""

import pytest
import torch

from jointdreamer.tinyworld.denoised import Denoiser
from jointdreamer.tinyworld.pairs import make_groups

PRIOR = "load/tiny/stable-diffusion"


@pytest.fixture(scope="module")
def denoiser():
    return Denoiser(PRIOR, torch.device("cpu"))


def distance(a, b):
    return (a.float() - b.float()).abs().mean() / 255


def test_little_noise_leaves_pictures_and_much_leaves_what_the_caption_says(denoiser, monkeypatch):
    groups = make_groups(4, 3, "cpu")
    found = {}
    for name, percent in (("little", 0.02), ("much", 0.9)):
        for side in ("MIN_PERCENT", "MAX_PERCENT"):
            monkeypatch.setattr(f"jointdreamer.tinyworld.denoised.{side}", percent)
        found[name] = denoiser.denoise(groups["images"], ["a red cat"] * 4, seed=0)
        assert found[name].shape == groups["images"].shape
        assert found[name].dtype == torch.uint8
    assert distance(found["little"], groups["images"]) < 0.02
    assert distance(found["much"], groups["images"]) > 0.04
    other = denoiser.denoise(groups["images"], ["a blue dog"] * 4, seed=0)
    assert distance(found["much"], other) > 0.02


def test_groups_are_shown_once_more_and_come_from_the_seed(denoiser):
    before = torch.get_rng_state()
    first, second = (make_groups(2, 5, "cpu", denoiser=denoiser) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    for name in ("denoised_images", "denoised_janus"):
        assert torch.equal(first[name], second[name])
    assert not torch.equal(first["denoised_images"], first["denoised_janus"])
