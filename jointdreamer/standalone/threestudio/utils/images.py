"""Arrays to 8-bit RGB pictures: colours, grey, and rows of them."""

from typing import Any

import numpy as np
from PIL import Image

ImageArray = np.ndarray  # H W 3, uint8


def rgb_image(
    img: np.ndarray, data_format: str = "HWC", data_range: tuple[float, float] = (0, 1)
) -> ImageArray:
    """A colour picture.

    Args:
        img: [H W 3]; uint8 is taken as it is.
        data_format: "HWC", the only one that this host has.
        data_range: the values that become black and white.
    """
    if data_format != "HWC":
        raise ValueError(f"data_format='{data_format}' is unknown: use 'HWC'.")
    return img if img.dtype == np.uint8 else _to_bytes(_unit(img, data_range))


def grayscale_image(
    img: np.ndarray, data_range: tuple[float, float] | None = None, cmap: str | None = None
) -> ImageArray:
    """One channel [H W] as grey.

    Args:
        data_range: black and white; None takes the picture's own minimum and maximum.
        cmap: None; threestudio has colour maps, too.
    """
    if cmap is not None:
        raise ValueError(f"cmap='{cmap}' is unknown in this host: use null, which is grey.")
    img = np.nan_to_num(img)
    img = _unit(img, (img.min(), img.max()) if data_range is None else data_range)
    return np.repeat(_to_bytes(img)[..., None], 3, axis=2)


def image_grid(cells: list[dict[str, Any]]) -> ImageArray:
    """Pictures in a row, resized to the largest one's height and width.

    Args:
        cells: dicts `{"type": "rgb" | "grayscale", "img": array, "kwargs": {...}}`.
    """
    makers = {"rgb": rgb_image, "grayscale": grayscale_image}
    pictures = []
    for cell in cells:
        if cell["type"] not in makers:
            raise ValueError(f"type='{cell['type']}' is unknown: use {', '.join(makers)}.")
        pictures.append(makers[cell["type"]](cell["img"], **cell["kwargs"]))
    height = max(picture.shape[0] for picture in pictures)
    width = max(picture.shape[1] for picture in pictures)
    return np.concatenate([_resize(picture, height, width) for picture in pictures], axis=1)


def _unit(img: np.ndarray, data_range: tuple[float, float]) -> np.ndarray:
    low, high = data_range
    scale = high - low if high > low else 1.0
    return (np.asarray(img, dtype=np.float32).clip(low, high) - low) / scale


def _to_bytes(img: np.ndarray) -> np.ndarray:
    return (img * 255.0).astype(np.uint8)


def _resize(cell: np.ndarray, height: int, width: int) -> np.ndarray:
    if cell.shape[:2] == (height, width):
        return cell
    return np.asarray(Image.fromarray(cell).resize((width, height), Image.Resampling.BILINEAR))
