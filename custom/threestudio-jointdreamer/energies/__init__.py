"""The energies that couple the views of an object; `base` is the interface."""

from . import multiview, weighted_sum, zero  # noqa: F401  (registers them)
from .base import Energy, Views

__all__ = ["Energy", "Views"]
