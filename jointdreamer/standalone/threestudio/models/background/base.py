"""The background every other one derives from: a colour for each ray direction."""

import random
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio.utils.base import BaseModule


class BaseBackground(BaseModule):
    """What a ray sees where the object is transparent."""

    @dataclass
    class Config(BaseModule.Config):
        pass

    cfg: Config

    def configure(self) -> None:
        """Builds nothing."""

    def forward(self, dirs: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B H W Nc"]:
        """Colours for unit directions."""
        raise NotImplementedError


@dataclass
class AugmentationConfig:
    """Keys of backgrounds that can be swapped for plain random colours while training."""

    random_aug: bool = False
    random_aug_prob: Annotated[float, "[0, 1]"] = 0.5


def augment(
    color: Float[Tensor, "B H W Nc"], cfg: AugmentationConfig, training: bool
) -> Float[Tensor, "B H W Nc"]:
    """Puts random plain colours in place of `color`, as `cfg` says.

    The result still depends on `color`, with derivative 0: distributed training wants every
    parameter to be used in every step.
    """
    if not (training and cfg.random_aug and random.random() < cfg.random_aug_prob):
        return color
    plain = torch.rand(color.shape[0], 1, 1, color.shape[-1]).to(color)
    return color * 0 + plain.expand_as(color)
