"""Training systems and what they are made of: losses, seeding, geometry fading, pictures."""

from . import background, jointdreamer  # noqa: F401
