"""Systems under threestudio's module paths."""

from threestudio.systems import base  # noqa: F401
