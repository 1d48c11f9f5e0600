"""Fixtures of these tests."""

import pytest
import threestudio
import torch
from threestudio_jointdreamer.energies import Energy

from jointdreamer.testing.cameras import camera_ring
from jointdreamer.testing.prompts import RandomPrompts


@pytest.fixture
def make_guidance(sd_folder):
    def make(**cfg):
        cfg = {"pretrained_model_name_or_path": str(sd_folder)} | cfg
        return threestudio.find("jsd-guidance")(cfg)

    return make


@pytest.fixture
def prompts():
    return RandomPrompts()


@pytest.fixture
def cameras():
    """Two objects, four views."""
    return camera_ring(2, 4)


@pytest.fixture
def angles(cameras):
    """Of the cameras, in the order in which prompts take them."""
    return cameras["elevation"], cameras["azimuth"], cameras["camera_distances"]


@pytest.fixture
def rgb():
    """Renders of the cameras."""
    return torch.rand(8, 20, 20, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def coherence(register):
    """An energy that is neither quadratic nor symmetric in the views; counts its evaluations."""

    @register("test-coherence-energy")
    class Coherence(Energy):
        evaluations = 0

        @staticmethod
        def of(x0):
            """C of views [N V C h w]; any precision."""
            deviation = x0 - x0.mean(dim=1, keepdim=True)
            pairs = (x0 * x0.roll(1, dims=1)).sin()
            return -deviation.square().sum(dim=(1, 2, 3, 4)) + 3 * pairs.sum(dim=(1, 2, 3, 4))

        def __call__(self, views):
            type(self).evaluations += 1
            return self.of(views.denoised)

    return Coherence
