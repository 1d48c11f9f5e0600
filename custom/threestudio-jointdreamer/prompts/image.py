"""An image as the prompt: one object, cut out of its background and centred in a square picture."""

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageOps
from scipy import ndimage
from torch import Tensor

from ..weights.names import find_local

SIZE = 512  # pixels of the square
OBJECT_SHARE = 0.85  # of the square, what the object's longer side takes
PLAIN = 24  # of 255: how far a plain background's colours may be from their median
PLAIN_SHARE = 0.9  # of the picture's edge, that must be background
SPECK = 0.05  # of the largest part: parts below this are specks, parts above it objects
LEAST = 32  # pixels of the object's longer side
CUT_OUT = "give a png whose background is transparent, such as `rembg i IN.png OUT.png` makes"


def read_image_prompt(path: str, key: str) -> Float[Tensor, "4 S S"]:
    """Colours and opacity in [0, 1] of the one object in a picture, centred.

    The background is what is transparent; in a picture without transparency what is connected to
    its edge and of the edge's colour, if that is plain. Specks beside the object are left out.

    Args:
        path: of any format that Pillow reads; relative to the working directory or the repository.
        key: the config key to name in errors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no picture, its background is not plain, it shows nothing or several
            objects, or one that is very small.
    """
    named = f"{key}={str(path)!r}"
    image = _open(path, named)
    pixels = np.asarray(image)
    opacity = pixels[..., 3]
    if opacity.min() == 255:
        opacity = np.where(_background(pixels[..., :3], named), 0, 255).astype(np.uint8)
    kept = _one_object(opacity > 127, named)
    rows, columns = (np.flatnonzero(kept.any(axis=axis)) for axis in (1, 0))
    box = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    longer = max(box[2] - box[0], box[3] - box[1])
    if longer < LEAST:
        raise ValueError(
            f"{named}: the object is only {longer} pixels large. Give a picture in which it has "
            f"{LEAST} pixels or more."
        )
    around = ndimage.binary_dilation(kept, iterations=2)  # the object's soft edge is part of it
    image.putalpha(Image.fromarray(np.where(around, opacity, 0).astype(np.uint8)))
    half = longer / OBJECT_SHARE / 2
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    corners = [round(value) for value in (x - half, y - half, x + half, y + half)]
    square = image.crop(corners).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255


def _open(path: str, named: str) -> Image.Image:
    found = find_local(path)
    if found is None or not found.is_file():
        raise FileNotFoundError(f"{named}: there is no such file. Check the path.")
    try:
        with Image.open(found) as image:
            return ImageOps.exif_transpose(image).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{named} is no picture that can be read ({error}). Give a png, jpg or webp."
        ) from error


def _background(rgb: UInt8[np.ndarray, "H W 3"], named: str) -> Bool[np.ndarray, "H W"]:
    edge = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]]).astype(int)
    colour = np.median(edge, axis=0)
    share = (np.abs(edge - colour).max(axis=1) <= PLAIN).mean()
    if share < PLAIN_SHARE:
        raise ValueError(
            f"{named} has no transparency, and its background is not plain: only {share:.0%} of "
            f"its edge has one colour. To remove the background, {CUT_OUT}."
        )
    alike = np.abs(rgb.astype(int) - colour).max(axis=2) <= PLAIN
    parts, _ = ndimage.label(alike)
    at_edge = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    return alike & np.isin(parts, at_edge)


def _one_object(covered: Bool[np.ndarray, "H W"], named: str) -> Bool[np.ndarray, "H W"]:
    """Its largest connected part, which must be the only one but for specks."""
    parts, count = ndimage.label(covered, structure=np.ones((3, 3)))
    if count == 0:
        raise ValueError(
            f"{named} shows no object: it is all background. Give a picture of one object; if it "
            f"shows one of the background's colour, {CUT_OUT}."
        )
    sizes = np.bincount(parts.ravel())[1:]
    objects = int((sizes >= SPECK * sizes.max()).sum())
    if objects > 1:
        raise ValueError(
            f"{named} shows {objects} objects that do not touch. Crop it to one of them, or "
            "cut the others out."
        )
    return parts == 1 + sizes.argmax()
