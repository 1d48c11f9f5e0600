"""Geometries; importing them registers them."""

from . import base, implicit_volume  # noqa: F401
