"""The JSD gradient; importing this registers `jsd-guidance`."""

from . import jsd_guidance  # noqa: F401  (registers it)
