"""Arrays to 8-bit RGB pictures: colours, uv coordinates, scalars, and grids of them."""

from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

ImageArray = np.ndarray  # H W 3, uint8


def rgb_image(
    img: np.ndarray, data_format: str = "HWC", data_range: tuple[float, float] = (0, 1)
) -> ImageArray:
    """A colour picture; more than 3 channels become several pictures side by side.

    Args:
        img: `data_format` "HWC" or "CHW"; uint8 is taken as it is.
        data_range: the values that become black and white.
    """
    img = _channels_last(img, data_format)
    if img.dtype != np.uint8:
        img = _to_bytes(_unit(img, data_range))
    missing = -img.shape[-1] % 3
    img = np.pad(img, ((0, 0), (0, 0), (0, missing)))
    return np.concatenate(np.split(img, img.shape[-1] // 3, axis=-1), axis=1)


def uv_image(
    img: np.ndarray,
    data_format: str = "HWC",
    data_range: tuple[float, float] = (0, 1),
    cmap: str = "checkerboard",
) -> ImageArray:
    """Texture coordinates as a 64 x 64 checkerboard, or u as red and v as green ("color")."""
    uv = _unit(_channels_last(img, data_format), data_range)[..., :2]
    if cmap == "checkerboard":
        even = (uv * 64).astype(int).sum(axis=-1, keepdims=True) % 2 == 0
        return np.where(even, (255, 0, 255), (255, 255, 255)).astype(np.uint8)
    if cmap == "color":
        return np.pad(_to_bytes(uv), ((0, 0), (0, 0), (0, 1)))
    raise ValueError(f"cmap='{cmap}' is unknown for uv pictures: use 'checkerboard' or 'color'.")


def grayscale_image(
    img: np.ndarray, data_range: tuple[float, float] | None = None, cmap: str | None = "jet"
) -> ImageArray:
    """One channel as grey (`cmap` None) or through a colour map.

    Args:
        img: [H W].
        data_range: the values at the map's ends; None takes the picture's own minimum and maximum.
        cmap: None, "jet", "magma" (dark is large, as threestudio has it) or "spectral".
    """
    img = np.nan_to_num(img)
    img = _unit(img, (img.min(), img.max()) if data_range is None else data_range)
    if cmap is None:
        return np.repeat(_to_bytes(img)[..., None], 3, axis=2)
    names = {"jet": "jet", "magma": "magma_r", "spectral": "Spectral"}
    if cmap not in names:
        raise ValueError(f"cmap='{cmap}' is unknown: use null, {', '.join(names)}.")
    return _to_bytes(matplotlib.colormaps[names[cmap]](img)[..., :3])


def image_grid(imgs: list, align: Any = "max") -> ImageArray:
    """Pictures in a row, or rows of pictures.

    Args:
        imgs: dicts `{"type": "rgb" | "uv" | "grayscale", "img": array, "kwargs": {...}}`, or lists
            of such dicts, one for each row.
        align: the common size: "max" or "min" of the row's, a number, or (height, width).
    """
    if isinstance(imgs[0], list):
        return np.concatenate([image_grid(row, align) for row in imgs], axis=0)
    makers = {"rgb": rgb_image, "uv": uv_image, "grayscale": grayscale_image}
    cells = []
    for item in imgs:
        if item["type"] not in makers:
            raise ValueError(f"type='{item['type']}' is unknown: use {', '.join(makers)}.")
        cells.append(makers[item["type"]](item["img"], **item["kwargs"]))
    height, width = _common_size(cells, align)
    return np.concatenate([_resize(cell, height, width) for cell in cells], axis=1)


def write_texts(img: ImageArray, texts: list) -> ImageArray:
    """Writes one text at the top left of each of `len(texts)` equal rows, black on a white rim."""
    picture = Image.fromarray(img)
    draw = ImageDraw.Draw(picture)
    for row, text in enumerate(texts):
        corner = (1, picture.height // len(texts) * row)
        draw.text(corner, str(text), fill="black", stroke_width=1, stroke_fill="white")
    return np.asarray(picture)


def _channels_last(img: np.ndarray, data_format: str) -> np.ndarray:
    if data_format not in ("HWC", "CHW"):
        raise ValueError(f"data_format='{data_format}' is unknown: use 'HWC' or 'CHW'.")
    return img.transpose(1, 2, 0) if data_format == "CHW" else img


def _unit(img: np.ndarray, data_range: tuple[float, float]) -> np.ndarray:
    low, high = data_range
    scale = high - low if high > low else 1.0
    return (np.asarray(img, dtype=np.float32).clip(low, high) - low) / scale


def _to_bytes(img: np.ndarray) -> np.ndarray:
    return (img * 255.0).astype(np.uint8)


def _common_size(cells: list[np.ndarray], align: Any) -> tuple[int, int]:
    heights, widths = [cell.shape[0] for cell in cells], [cell.shape[1] for cell in cells]
    if align == "max":
        return max(heights), max(widths)
    if align == "min":
        return min(heights), min(widths)
    if isinstance(align, int):
        return align, align
    if isinstance(align, tuple) and [type(size) for size in align] == [int, int]:
        return align
    raise ValueError(f"align={align} is unknown: use 'max', 'min', a number or (height, width).")


def _resize(cell: np.ndarray, height: int, width: int) -> np.ndarray:
    if cell.shape[:2] == (height, width):
        return cell
    return np.asarray(Image.fromarray(cell).resize((width, height), Image.Resampling.BILINEAR))
