"""Materials; importing them registers them."""

from threestudio.models.materials import base, diffuse_with_point_light_material, no_material  # noqa: F401
