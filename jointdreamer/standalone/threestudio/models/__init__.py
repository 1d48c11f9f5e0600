"""Models under threestudio's module paths; importing them registers them."""

from threestudio.models import (  # noqa: F401
    background,
    exporters,
    geometry,
    materials,
    prompt_processors,
    renderers,
)
