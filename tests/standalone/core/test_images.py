"""Arrays to pictures."""

import numpy as np
import pytest
from threestudio.utils import images


def test_rgb_maps_its_range_to_bytes_and_clips():
    img = np.array([[[-1.0, 0.0, 3.0]]])
    assert images.rgb_image(img, "HWC", (-1, 1)).tolist() == [[[0, 127, 255]]]


def test_bytes_stay():
    img = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert np.array_equal(images.rgb_image(img), img)


def test_grey_is_the_value_on_all_channels():
    out = images.grayscale_image(np.array([[0.0, 0.5, np.nan]]), (0, 1))
    assert out.tolist() == [[[0] * 3, [127] * 3, [0] * 3]]


def test_grey_takes_its_own_range_if_none_is_given():
    out = images.grayscale_image(np.array([[2.0, 4.0]]), None, None)
    assert out[0, :, 0].tolist() == [0, 255]
    assert images.grayscale_image(np.full((1, 1), 3.0), None, None).tolist() == [[[0] * 3]]


def cell(height, width, value=1.0):
    return {"type": "rgb", "img": np.full((height, width, 3), value), "kwargs": {}}


def test_a_row_is_brought_to_the_largest_size():
    assert images.image_grid([cell(2, 6), cell(4, 3)]).shape == (4, 12, 3)


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda: images.rgb_image(np.ones((1, 1, 3)), "CHW"), "data_format='CHW'"),
        (lambda: images.grayscale_image(np.ones((1, 1)), None, "jet"), "cmap='jet'"),
        (lambda: images.image_grid([{**cell(1, 1), "type": "depth"}]), "type='depth'"),
    ],
)
def test_unknown_choices_are_told(call, text):
    with pytest.raises(ValueError, match=text):
        call()
