"""3D Gaussians as a representation; importing them registers them."""

from . import exporter, geometry, renderer  # noqa: F401
