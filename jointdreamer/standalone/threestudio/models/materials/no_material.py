"""`no-material`: the features are the colour."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.models.materials.base import BaseMaterial
from threestudio.models.networks import get_mlp
from threestudio.utils.ops import get_activation


@threestudio.register("no-material")
class NoMaterial(BaseMaterial):
    """Colour without shading, through a network if `mlp_network_config` is given."""

    @dataclass
    class Config(BaseMaterial.Config):
        n_output_dims: int = 3
        color_activation: str = "sigmoid"
        input_feature_dims: int | None = None  # with mlp_network_config
        mlp_network_config: dict | None = None
        requires_normal: bool = False

    cfg: Config

    def configure(self) -> None:
        sizes, network = self.cfg.input_feature_dims, self.cfg.mlp_network_config
        self.use_network = sizes is not None and network is not None
        if self.use_network:
            self.network = get_mlp(sizes, self.cfg.n_output_dims, network)
        self.requires_normal = self.cfg.requires_normal

    def forward(self, features: Float[Tensor, "B *N Nf"], **kwargs) -> Float[Tensor, "B *N Nc"]:
        """Colours of points.

        Raises:
            ValueError: without a network, if the features are not as many as the colour's channels.
        """
        width = features.shape[-1]
        if self.use_network:
            shape = (*features.shape[:-1], self.cfg.n_output_dims)
            features = self.network(features.reshape(-1, width)).view(shape)
        elif width != self.cfg.n_output_dims:
            raise ValueError(
                f"system.material.n_output_dims={self.cfg.n_output_dims} but points have {width} "
                "features: make it system.geometry.n_feature_dims, or set "
                "system.material.mlp_network_config and input_feature_dims."
            )
        return get_activation(self.cfg.color_activation)(features)

    def export(self, features: Float[Tensor, "*N Nf"], **kwargs) -> dict[str, Any]:
        """`albedo`, the colour cut to 0..1 and to three channels.

        Raises:
            ValueError: if the colour has fewer than three channels.
        """
        color = self(features, **kwargs).clamp(0, 1)
        if color.shape[-1] < 3:
            raise ValueError(
                f"system.material.n_output_dims={self.cfg.n_output_dims} is no RGB colour: a mesh "
                "can be exported with 3 channels."
            )
        if color.shape[-1] > 3:
            threestudio.warn("The colour has more than 3 channels: the first 3 are taken as RGB.")
        return {"albedo": color[..., :3]}
