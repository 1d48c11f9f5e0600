"""What a renderer and an exporter work on: an asset's geometry, material and background."""

from dataclasses import dataclass

from threestudio.models.background.base import BaseBackground
from threestudio.models.geometry.base import BaseImplicitGeometry
from threestudio.models.materials.base import BaseMaterial


@dataclass
class SubModules:
    """The parts, in a dataclass so that torch does not count them as their user's own."""

    geometry: BaseImplicitGeometry
    material: BaseMaterial
    background: BaseBackground


class SubModulesMixin:
    """Attributes for the parts in `sub_modules`."""

    sub_modules: SubModules

    @property
    def geometry(self) -> BaseImplicitGeometry:
        return self.sub_modules.geometry

    @property
    def material(self) -> BaseMaterial:
        return self.sub_modules.material

    @property
    def background(self) -> BaseBackground:
        return self.sub_modules.background
