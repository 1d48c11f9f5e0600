"""The order energy against its formula, view by view."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers.views import gradient, random_views, unchanged
from threestudio_jointdreamer.priors.image_embedding import load_image_embedding

DEGREES = [100.0, 350.0, 185.0, 40.0, 230.0]  # of five views; the second is the most frontal
FARTHER = [3, 0, 4, 2]  # than the front: 40, 100, 130 and 175 degrees


@pytest.fixture
def make(make_energy):
    return partial(make_energy, "order", detach_reference=False)


@pytest.fixture
def views(sd_prior):
    views = random_views(sd_prior, n_object=2, n_view=5)
    return replace(views, azimuth=torch.tensor([DEGREES] * 2))


def directly(views, folder, margin=0.0):
    """C of each object, from a CLIP or DINO of its own."""
    embed = load_image_embedding(str(folder), torch.device("cpu"))
    total = []
    for x in views.denoised:
        f = embed(views.prior.decode(x, embed.image_size // 4))
        cosines = [F.cosine_similarity(f[1], f[i], dim=0) for i in FARTHER]
        gaps = [60.0, 30.0, 45.0]  # 40, 100, 130, 175, less the reference's 10 throughout
        rises = (b - a for a, b in zip(cosines, cosines[1:], strict=False))
        expected = (margin * gap / 180 for gap in gaps)
        total.append(-sum(F.relu(r + e) for r, e in zip(rises, expected, strict=True)))
    return torch.stack(total)


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_energy_and_gradient_are_the_formulas(make, views, models, margin):
    C, expected = make(margin=margin)(views), directly(views, models["order"], margin)
    torch.testing.assert_close(C, expected)
    g, g_expected = gradient(C, views), gradient(expected, views)
    assert (g - g_expected).norm() < 1e-4 * g_expected.norm()
    assert g[:, 1].abs().max() > 0


def test_a_detached_reference_keeps_its_face(make, views):
    g = gradient(make(margin=0.5, detach_reference=True)(views), views)
    assert g[:, 1].abs().max() == 0 and g.abs().max() > 0


def test_only_views_out_of_order_are_moved(make, views):
    """Cosines with the front that fall, and then rise for the view behind."""
    energy = make()
    angle = torch.tensor([1.2, 0.0, 0.9, 0.6, 1.4])  # of each view's embedding; the third is behind
    energy.embed = lambda images: (
        torch.stack([angle.cos(), angle.sin()], dim=1).repeat(2, 1)
        + 0.0 * images.sum(dim=(1, 2, 3), keepdim=True).flatten(1)
    )
    C = energy(views)
    torch.testing.assert_close(C, -(torch.tensor(0.9).cos() - torch.tensor(1.4).cos()).expand(2))


def test_clip_is_an_embedding_too(sd_prior):
    """The shipped one: unit vectors, and a picture's gradient in single precision."""
    embed = load_image_embedding("load/tiny/clip", torch.device("cpu"))
    images = torch.rand(2, 3, 20, 20, requires_grad=True)
    f = embed(images)
    assert embed.image_size == 64 and f.shape == (2, 128)
    torch.testing.assert_close(f.norm(dim=1), torch.ones(2))
    (g,) = torch.autograd.grad(f[0, 0], images)
    assert g[0].abs().max() > 0 and g[1].abs().max() == 0


def test_views_and_random_numbers_are_left_alone(make, views):
    energy, state = make(), torch.get_rng_state()
    with unchanged(views):
        energy(views).sum().backward()
    assert torch.equal(torch.get_rng_state(), state)
