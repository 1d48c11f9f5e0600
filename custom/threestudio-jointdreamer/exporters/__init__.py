"""Exporters; importing them registers them."""

from . import mesh_exporter  # noqa: F401
