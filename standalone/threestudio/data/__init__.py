"""Camera data modules under threestudio's module paths; importing them registers them."""

from . import uncond  # noqa: F401
