"""Prompt processors; importing them registers them."""

from . import base, stable_diffusion_prompt_processor  # noqa: F401
