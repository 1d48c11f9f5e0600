"""An image as the prompt: what is cut out of a picture, and which pictures are refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from threestudio_jointdreamer.prompts.image import OBJECT_SHARE, SIZE, read_image_prompt

KEY = "system.prompt_processor.image"
RED, WHITE = (200, 30, 40), (250, 250, 250)


def saved(path, rgb, opacity=None):
    bands = [np.asarray(rgb, dtype=np.uint8)]
    if opacity is not None:
        bands.append(np.asarray(opacity, dtype=np.uint8)[..., None])
    Image.fromarray(np.concatenate(bands, axis=2)).save(path)
    return str(path)


def rectangle(top=60, left=20, height=80, width=40, size=(160, 200), colour=RED, behind=WHITE):
    """Colours of a rectangle, and where it is."""
    covered = np.zeros(size, dtype=bool)
    covered[top : top + height, left : left + width] = True
    return np.where(covered[..., None], colour, behind), covered


def test_the_object_is_cut_out_and_centred_whether_alpha_or_a_plain_background_shows_it(tmp_path):
    rgb, covered = rectangle()
    junk = np.where(covered[..., None], RED, 0)  # what lies under transparent pixels is nothing
    by_alpha = read_image_prompt(saved(tmp_path / "a.png", junk, 255 * covered), KEY)
    by_colour = read_image_prompt(saved(tmp_path / "b.png", rgb), KEY)
    for image in (by_alpha, by_colour):
        assert image.shape == (4, SIZE, SIZE) and image.min() >= 0 and image.max() <= 1
        seen = image[3] > 0.5
        rows, columns = seen.any(dim=1).nonzero(), seen.any(dim=0).nonzero()
        height, width = (int(x.max() - x.min()) + 1 for x in (rows, columns))
        assert height == pytest.approx(OBJECT_SHARE * SIZE, abs=4)
        assert width == pytest.approx(OBJECT_SHARE * SIZE / 2, abs=4)
        for line in (rows, columns):
            assert (line.min() + line.max()) / 2 == pytest.approx(SIZE / 2, abs=4)
        inside = image[:3, SIZE // 2, SIZE // 2] * 255
        torch.testing.assert_close(inside, torch.tensor(RED).float(), atol=1.0, rtol=0)


def test_what_has_the_backgrounds_colour_inside_the_object_stays(tmp_path):
    rgb, _ = rectangle()
    rgb[90:110, 30:50] = WHITE
    image = read_image_prompt(saved(tmp_path / "belly.png", rgb), KEY)
    assert image[3, SIZE // 2, SIZE // 2] == 1 and image[:3, SIZE // 2, SIZE // 2].min() > 0.9


def test_specks_are_left_out(tmp_path):
    rgb, covered = rectangle()
    clean = read_image_prompt(saved(tmp_path / "clean.png", rgb, 255 * covered), KEY)
    covered[5:9, 180:184] = True
    image = read_image_prompt(saved(tmp_path / "specks.png", rgb, 255 * covered), KEY)
    assert torch.equal(image[3], clean[3])


def two_objects():
    rgb, covered = rectangle()
    return rgb, 255 * (covered | rectangle(left=120)[1])


REFUSED = {
    "busy": (lambda: (np.random.default_rng(0).integers(0, 255, (80, 80, 3)),), "is not plain"),
    "empty": (lambda: (np.full((80, 80, 3), 250),), "shows no object"),
    "transparent": (lambda: (np.zeros((80, 80, 3)), np.zeros((80, 80))), "shows no object"),
    "two": (two_objects, "shows 2 objects that do not touch. Crop it"),
    "tiny": (lambda: rectangle(height=9, width=9)[:1], "only 9 pixels large. Give a picture"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_picture_that_shows_not_one_object_is_refused(tmp_path, name):
    make, message = REFUSED[name]
    path = saved(tmp_path / f"{name}.png", *make())
    with pytest.raises(ValueError, match=message) as error:
        read_image_prompt(path, KEY)
    assert str(error.value).startswith(f"{KEY}={path!r}")


def test_what_is_no_picture_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{KEY}='nowhere.png': there is no such file"):
        read_image_prompt("nowhere.png", KEY)
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        read_image_prompt(str(tmp_path), KEY)
    whole = tmp_path / "whole.png"
    saved(whole, rectangle()[0])
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:200])
    with pytest.raises(ValueError, match="is no picture that can be read .* Give a png"):
        read_image_prompt(str(tmp_path / "cut.png"), KEY)
