"""Renderers; importing them registers them."""

from . import base, nerf_volume_renderer  # noqa: F401
