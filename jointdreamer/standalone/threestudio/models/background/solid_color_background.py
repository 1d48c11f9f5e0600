"""`solid-color-background`: one colour."""

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.models.background.base import AugmentationConfig, BaseBackground, augment


@threestudio.register("solid-color-background")
class SolidColorBackground(BaseBackground):
    """The same colour in all directions.

    Raises:
        ValueError: if `color` has neither one nor `n_output_dims` numbers.
    """

    @dataclass
    class Config(AugmentationConfig, BaseBackground.Config):
        n_output_dims: Annotated[int, "[1, inf)"] = 3
        color: Annotated[tuple[float, ...], "[0, 1]"] = (1.0, 1.0, 1.0)

        def __post_init__(self) -> None:
            if len(self.color) not in (1, self.n_output_dims):
                raise ValueError(
                    f"system.background.color={list(self.color)} has {len(self.color)} numbers: "
                    f"give n_output_dims={self.n_output_dims} of them."
                )

    cfg: Config
    env_color: Float[Tensor, "Nc"]

    def configure(self) -> None:
        color = torch.tensor([float(x) for x in self.cfg.color])
        self.register_buffer("env_color", color)

    def forward(self, dirs: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B H W Nc"]:
        shape = (*dirs.shape[:-1], self.cfg.n_output_dims)
        color = torch.ones(shape).to(dirs) * self.env_color.to(dirs)
        return augment(color, self.cfg, self.training)
