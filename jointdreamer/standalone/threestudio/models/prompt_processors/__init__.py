"""Prompt processors; importing them registers them."""

from threestudio.models.prompt_processors import base, stable_diffusion_prompt_processor  # noqa: F401
