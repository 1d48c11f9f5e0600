"""Camera data modules under threestudio's module paths; importing them registers them."""

from threestudio.data import uncond  # noqa: F401
