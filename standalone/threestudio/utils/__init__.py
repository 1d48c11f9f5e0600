"""Utilities under threestudio's module paths."""

from . import base  # noqa: F401
