"""What a renderer is: it sees a geometry, a material and a background, and owns none of them."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from threestudio.utils.base import BaseModule


class Renderer(BaseModule):
    """Makes images of the box of half side `radius`."""

    @dataclass
    class Config(BaseModule.Config):
        radius: Annotated[float, "(0, inf)"] = 1.0

    cfg: Config

    def configure(self, geometry: Any, material: Any, background: Any) -> None:
        parts = {"geometry": geometry, "material": material, "background": background}
        for name, part in parts.items():
            object.__setattr__(self, name, part)  # the system's, and no children in torch's eyes
        self.bbox: Tensor
        corner = torch.full((3,), float(self.cfg.radius))
        self.register_buffer("bbox", torch.stack([-corner, corner]))

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Images and what losses need of them."""
        raise NotImplementedError
