"""Small pictures of an asset as data URIs: views side by side, and the asset turning."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from .assets import Asset

TURN_SECONDS = 4


def all_round(asset: Asset, height: int, count: int) -> str:
    """`count` views from all round in two rows, so that a table with them fits a screen."""
    pixels = [np.asarray(view) for view in _views(asset, height, count)]
    per_row = -(-len(pixels) // 2)
    pixels += [np.full_like(pixels[0], 255)] * (2 * per_row - len(pixels))
    rows = (pixels[:per_row], pixels[per_row:])
    sheet = Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows]))
    return _encoded(sheet, "JPEG", quality=88, subsampling=0)


def turning(asset: Asset, height: int, count: int) -> str:
    """A short film of the asset turning once, again and again, in `count` frames."""
    first, *others = _views(asset, height, count)
    pace = {"duration": 1000 * TURN_SECONDS // (1 + len(others)), "loop": 0}
    return _encoded(first, "WEBP", save_all=True, append_images=others, quality=75, **pace)


def _views(asset: Asset, height: int, count: int) -> list[Image.Image]:
    views = [Image.fromarray(frame.picture()) for frame in asset.every(count)]
    if views[0].height == height:
        return views
    width = max(1, round(views[0].width * height / views[0].height))
    return [view.resize((width, height), Image.Resampling.LANCZOS) for view in views]


def data_uri(content: bytes, kind: str) -> str:
    """A file within a page; `kind` is such as image/png."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _encoded(image: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return data_uri(file.getvalue(), f"image/{kind.lower()}")
