"""The exporter every other one derives from: a trained asset to files."""

from dataclasses import dataclass
from typing import Any

from threestudio.models.background.base import BaseBackground
from threestudio.models.geometry.base import BaseImplicitGeometry
from threestudio.models.materials.base import BaseMaterial
from threestudio.utils.base import BaseObject


@dataclass
class ExporterOutput:
    """A file to save: the system's `save_<save_type>(save_name, **params)` writes it."""

    save_name: str
    save_type: str
    params: dict[str, Any]


@dataclass
class SubModules:
    """What is exported."""

    geometry: BaseImplicitGeometry
    material: BaseMaterial
    background: BaseBackground


class Exporter(BaseObject):
    """Returns what to save; `save_video` asks for the turntable too."""

    @dataclass
    class Config(BaseObject.Config):
        save_video: bool = False

    cfg: Config

    def configure(
        self,
        geometry: BaseImplicitGeometry,
        material: BaseMaterial,
        background: BaseBackground,
    ) -> None:
        self.sub_modules = SubModules(geometry, material, background)

    @property
    def geometry(self) -> BaseImplicitGeometry:
        return self.sub_modules.geometry

    @property
    def material(self) -> BaseMaterial:
        return self.sub_modules.material

    @property
    def background(self) -> BaseBackground:
        return self.sub_modules.background

    def __call__(self, *args, **kwargs) -> list[ExporterOutput]:
        """The files that make up the asset."""
        raise NotImplementedError
