"""Renderers; importing them registers them."""

from threestudio.models.renderers import base, nerf_volume_renderer  # noqa: F401
