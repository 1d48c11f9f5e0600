"""Arrays to pictures."""

import numpy as np
import pytest
from threestudio.utils import images


def test_rgb_maps_its_range_to_bytes_and_clips_and_bytes_stay():
    img = np.array([[[-1.0, 0.0, 3.0]]])
    assert images.rgb_image(img, "HWC", (-1, 1)).tolist() == [[[0, 127, 255]]]
    img = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert np.array_equal(images.rgb_image(img), img)


@pytest.mark.parametrize(
    ("img", "data_range", "grey"),
    [
        ([0.0, 0.5, np.nan], (0, 1), [0, 127, 0]),
        ([2.0, 4.0], None, [0, 255]),  # its own range
        ([3.0], None, [0]),
    ],
)
def test_grey_is_the_value_on_all_channels(img, data_range, grey):
    assert images.grayscale_image(np.array([img]), data_range).tolist() == [[[g] * 3 for g in grey]]


def cell(height, width):
    return {"type": "rgb", "img": np.ones((height, width, 3)), "kwargs": {}}


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
