"""Camera data: groups of views around one object."""

from . import multiview_camera  # noqa: F401
