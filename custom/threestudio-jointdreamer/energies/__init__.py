"""The energies that couple the views of an object; `base` is the interface."""

from . import (  # noqa: F401  (registers them)
    classifier,
    multiview,
    translation,
    weighted_sum,
    zero,
)
from .base import Energy, Views

__all__ = ["Energy", "Views"]
