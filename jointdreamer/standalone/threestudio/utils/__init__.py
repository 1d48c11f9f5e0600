"""Utilities under threestudio's module paths."""

from threestudio.utils import base  # noqa: F401
