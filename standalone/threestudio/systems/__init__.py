"""Systems under threestudio's module paths."""

from . import dreamfusion  # noqa: F401
