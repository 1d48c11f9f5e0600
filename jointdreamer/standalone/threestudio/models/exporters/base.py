"""The exporter every other one derives from: a trained asset to files."""

from dataclasses import dataclass
from typing import Any

from threestudio.utils.base import BaseObject


@dataclass
class ExporterOutput:
    """A file to save: the system's `save_<save_type>(save_name, **params)` writes it."""

    save_name: str
    save_type: str
    params: dict[str, Any]


class Exporter(BaseObject):
    """Returns what to save; `save_video` asks for the turntable too."""

    @dataclass
    class Config(BaseObject.Config):
        save_video: bool = False

    cfg: Config

    def configure(self, geometry: Any, material: Any, background: Any) -> None:
        self.geometry, self.material, self.background = geometry, material, background

    def __call__(self, *args, **kwargs) -> list[ExporterOutput]:
        """The files that make up the asset."""
        raise NotImplementedError
