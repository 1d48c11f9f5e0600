"""Prompt processing: text embeddings, their cache, the timed negative prompt; images."""

from . import image, jointdreamer  # noqa: F401
