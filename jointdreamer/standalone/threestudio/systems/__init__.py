"""Systems under threestudio's module paths."""

from threestudio.systems import dreamfusion  # noqa: F401
