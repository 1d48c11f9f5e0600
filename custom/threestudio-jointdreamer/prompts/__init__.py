"""Prompt processing: text embeddings, their cache, and the switch to the negative prompt."""

from . import jointdreamer  # noqa: F401
