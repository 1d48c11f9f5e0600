"""`no-material`: the features are the colour."""

from dataclasses import dataclass
from typing import Annotated, Any

from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.models.materials.base import BaseMaterial
from threestudio.utils.ops import check_activation, get_activation


@threestudio.register("no-material")
class NoMaterial(BaseMaterial):
    """Colour without shading."""

    @dataclass
    class Config(BaseMaterial.Config):
        n_output_dims: Annotated[int, "[1, inf)"] = 3
        color_activation: Annotated[str, check_activation] = "sigmoid"
        requires_normal: bool = False

    cfg: Config

    def configure(self) -> None:
        self.requires_normal = self.cfg.requires_normal

    def forward(self, features: Float[Tensor, "B *N Nf"], **kwargs) -> Float[Tensor, "B *N Nc"]:
        """Colours of points.

        Raises:
            ValueError: if the features are not as many as the colour's channels.
        """
        if features.shape[-1] != self.cfg.n_output_dims:
            raise ValueError(
                f"system.material.n_output_dims={self.cfg.n_output_dims} but points have "
                f"{features.shape[-1]} features: make it system.geometry.n_feature_dims."
            )
        return get_activation(self.cfg.color_activation)(features)

    def export(self, features: Float[Tensor, "*N Nf"], **kwargs) -> dict[str, Any]:
        """`albedo`, the colour cut to 0..1.

        Raises:
            ValueError: if the colour has not three channels.
        """
        if self.cfg.n_output_dims != 3:
            raise ValueError(
                f"system.material.n_output_dims={self.cfg.n_output_dims} is no RGB colour: a mesh "
                "can be exported with 3 channels."
            )
        return {"albedo": self(features, **kwargs).clamp(0, 1)}
