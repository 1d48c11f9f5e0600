"""`neural-environment-map-background`: a small network from directions to colours."""

from dataclasses import dataclass, field
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.models.background.base import AugmentationConfig, BaseBackground, augment
from threestudio.models.networks import ENCODINGS, NETWORKS, get_encoding, get_mlp
from threestudio.utils.ops import check_activation, get_activation


@threestudio.register("neural-environment-map-background")
class NeuralEnvironmentMapBackground(BaseBackground):
    """A learned colour for each direction; outside training `eval_color` where it is given."""

    @dataclass
    class Config(AugmentationConfig, BaseBackground.Config):
        n_output_dims: Annotated[int, "[1, inf)"] = 3
        color_activation: Annotated[str, check_activation] = "sigmoid"
        dir_encoding_config: Annotated[dict, ENCODINGS] = field(
            default_factory=lambda: {"otype": "SphericalHarmonics", "degree": 3}
        )
        mlp_network_config: Annotated[dict, NETWORKS] = field(
            default_factory=lambda: {
                "otype": "VanillaMLP",
                "activation": "ReLU",
                "n_neurons": 16,
                "n_hidden_layers": 2,
            }
        )
        eval_color: Annotated[tuple[float, float, float] | None, "[0, 1]"] = None

    cfg: Config

    def configure(self) -> None:
        self.encoding = get_encoding(3, self.cfg.dir_encoding_config)
        self.network = get_mlp(
            self.encoding.n_output_dims, self.cfg.n_output_dims, self.cfg.mlp_network_config
        )

    def forward(self, dirs: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B H W Nc"]:
        shape = (*dirs.shape[:-1], self.cfg.n_output_dims)
        if not self.training and self.cfg.eval_color is not None:
            return torch.tensor(list(self.cfg.eval_color)).to(dirs).expand(shape)
        unit = (dirs + 1.0) / 2.0  # encodings take [0, 1]
        color = self.network(self.encoding(unit.reshape(-1, 3))).view(shape)
        color = get_activation(self.cfg.color_activation)(color)
        return augment(color, self.cfg, self.training)
