"""Exporters; importing them registers them."""

from . import base, mesh_exporter  # noqa: F401
