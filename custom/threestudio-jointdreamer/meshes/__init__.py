"""A mesh that the user brings, textured by distillation; importing these registers them."""

from . import geometry, renderer  # noqa: F401
