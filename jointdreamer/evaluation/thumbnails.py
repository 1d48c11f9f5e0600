"""Small pictures of an asset as data URIs: views side by side, and the asset turning."""

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .assets import Asset

TURN_SECONDS = 4


@dataclass(frozen=True)
class Thumbnails:
    """How large they are."""

    height: int = 96  # of a view, in pixels
    strip: int = 8  # views side by side
    turn: int = 24  # frames of the turning picture

    def all_round(self, asset: Asset) -> str:
        """Views from all round in two rows, so that a table with them fits a screen."""
        views = self._views(asset, self.strip)
        per_row = -(-len(views) // 2)
        pixels = [np.asarray(view) for view in views]
        pixels += [np.full_like(pixels[0], 255)] * (2 * per_row - len(views))
        rows = (pixels[:per_row], pixels[per_row:])
        sheet = Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows]))
        return _data_uri(sheet, "JPEG", quality=88, subsampling=0)

    def turning(self, asset: Asset) -> str:
        """A short film of the asset turning once, again and again."""
        first, *others = self._views(asset, self.turn)
        pace = {"duration": 1000 * TURN_SECONDS // (1 + len(others)), "loop": 0}
        return _data_uri(first, "WEBP", save_all=True, append_images=others, quality=75, **pace)

    def _views(self, asset: Asset, count: int) -> list[Image.Image]:
        views = [Image.fromarray(frame.picture()) for frame in asset.every(count)]
        if views[0].height == self.height:
            return views
        width = max(1, round(views[0].width * self.height / views[0].height))
        return [view.resize((width, self.height), Image.Resampling.LANCZOS) for view in views]


def _data_uri(image: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
