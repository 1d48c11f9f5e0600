"""Materials; importing them registers them."""

from . import base, diffuse_with_point_light_material, no_material  # noqa: F401
