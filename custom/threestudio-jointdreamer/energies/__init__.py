"""The energies that couple the views of an object; `base` is the interface."""

from . import classifier, multiview, order, pose, translation, weighted_sum, zero  # noqa: F401
from .base import Energy, Views

__all__ = ["Energy", "Views"]
