"""What a renderer is: it sees a geometry, a material and a background, and owns none of them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from threestudio.models.background.base import BaseBackground
from threestudio.models.geometry.base import BaseImplicitGeometry
from threestudio.models.materials.base import BaseMaterial
from threestudio.utils.base import BaseModule


@dataclass
class SubModules:
    """What is rendered, in a dataclass so that torch does not count it as the renderer's own."""

    geometry: BaseImplicitGeometry
    material: BaseMaterial
    background: BaseBackground


class Renderer(BaseModule):
    """Makes images of the box of half side `radius`."""

    @dataclass
    class Config(BaseModule.Config):
        radius: float = 1.0

    cfg: Config

    def configure(
        self,
        geometry: BaseImplicitGeometry,
        material: BaseMaterial,
        background: BaseBackground,
    ) -> None:
        self.sub_modules = SubModules(geometry, material, background)
        self.bbox: Tensor
        corner = torch.full((3,), float(self.cfg.radius))
        self.register_buffer("bbox", torch.stack([-corner, corner]))

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Images and what losses need of them."""
        raise NotImplementedError

    @property
    def geometry(self) -> BaseImplicitGeometry:
        return self.sub_modules.geometry

    @property
    def material(self) -> BaseMaterial:
        return self.sub_modules.material

    @property
    def background(self) -> BaseBackground:
        return self.sub_modules.background

    def set_geometry(self, geometry: BaseImplicitGeometry) -> None:
        self.sub_modules.geometry = geometry

    def set_material(self, material: BaseMaterial) -> None:
        self.sub_modules.material = material

    def set_background(self, background: BaseBackground) -> None:
        self.sub_modules.background = background


class VolumeRenderer(Renderer):
    """Renders by integration along rays."""
