"""Exporters; importing them registers them."""

from threestudio.models.exporters import base, mesh_exporter  # noqa: F401
