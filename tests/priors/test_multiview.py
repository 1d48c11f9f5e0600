"""Cross-view attention and camera conditioning."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from threestudio_jointdreamer.priors.multiview import (
    camera_condition,
    use_cross_view_attention,
)

from jointdreamer.testing.cameras import camera_ring


@pytest.fixture(scope="module")
def inputs():
    torch.manual_seed(0)
    camera = camera_condition(camera_ring(2, 4)["c2w"])
    return torch.randn(8, 4, 16, 16), torch.randn(8, 24, 128), camera


@pytest.fixture
def unet(mv_folder):
    return UNet2DConditionModel.from_pretrained(mv_folder / "unet").eval()


def predict(unet, x, text, camera):
    with torch.no_grad():
        return unet(x, torch.tensor(300), text, class_labels=camera).sample


def test_one_view_is_stock_attention(unet, inputs):
    stock = predict(unet, *inputs)
    torch.testing.assert_close(predict(use_cross_view_attention(unet, 1), *inputs), stock)


def test_permuted_views_give_permuted_predictions(unet, inputs):
    use_cross_view_attention(unet, 4)
    order = torch.tensor([2, 0, 3, 1, 5, 7, 4, 6])
    permuted = predict(unet, *(x[order] for x in inputs))
    torch.testing.assert_close(permuted, predict(unet, *inputs)[order], atol=1e-5, rtol=1e-4)


def test_a_view_depends_on_the_other_views_of_its_object_only(unet, inputs):
    x, text, camera = inputs
    use_cross_view_attention(unet, 4)
    before = predict(unet, x, text, camera)
    changed = x.clone()
    changed[1] += 1
    difference = (predict(unet, changed, text, camera) - before).abs().amax(dim=(1, 2, 3))
    assert (difference[:4] > 1e-4).all()
    assert (difference[4:] < 1e-5).all()


def test_views_that_do_not_divide_into_objects_are_refused(unet, inputs):
    with pytest.raises(ValueError, match="8 views do not divide into objects of n_view=3"):
        predict(use_cross_view_attention(unet, 3), *inputs)


def test_the_camera_lies_on_the_unit_sphere_and_keeps_its_rotation():
    c2w = camera_ring(1, 4, distance=3.0)["c2w"]
    before = c2w.clone()
    camera = camera_condition(c2w).view(4, 4, 4)
    assert torch.equal(c2w, before)
    torch.testing.assert_close(camera[:, :3, 3], c2w[:, :3, 3] / 3)
    assert torch.equal(camera[:, :3, :3], c2w[:, :3, :3])
    assert torch.equal(camera[:, 3], c2w[:, 3])
