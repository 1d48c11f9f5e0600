"""The material every other one derives from: features of points to colours."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from threestudio.utils.base import BaseModule


class BaseMaterial(BaseModule):
    """How a point looks."""

    @dataclass
    class Config(BaseModule.Config):
        pass

    cfg: Config
    requires_normal: bool = False  # whether the renderer has to provide shading_normal
    requires_tangent: bool = False

    def configure(self) -> None:
        """Builds nothing."""

    def forward(self, *args, **kwargs) -> Float[Tensor, "*B 3"]:
        """Colours of points; renderers pass all that they know as keyword arguments."""
        raise NotImplementedError

    def export(self, *args, **kwargs) -> dict[str, Any]:
        """What a mesh can carry, such as `albedo` [*N 3] in 0..1."""
        return {}
