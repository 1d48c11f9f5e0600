"""Prompt processing: text embeddings, their cache, the timed negative prompt; images."""

from . import jointdreamer  # noqa: F401
