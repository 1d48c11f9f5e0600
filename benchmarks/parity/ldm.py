"""What the references in LDM's layout share: their blocks, and float64 throughout."""

from types import ModuleType
from typing import Any

from torch import Tensor, nn

BLOCKS = {  # of every UNet of Stable Diffusion 1 and 2
    "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 4, 4],
    "use_spatial_transformer": True,
    "transformer_depth": 1,
    "use_checkpoint": False,
    "legacy": False,
    "image_size": 32,
}


def in_float64(util: ModuleType, unet: ModuleType) -> None:
    """Undoes the casts to float32 in a checkout's modules, which hide what is compared.

    Group norms compute in float32 whatever they are given, and the sines of the time step are not
    in the weights' precision.
    """
    util.GroupNorm32.forward = nn.GroupNorm.forward
    embedding = util.timestep_embedding

    def in_double(*args: Any, **kwargs: Any) -> Tensor:
        return embedding(*args, **kwargs).double()

    unet.timestep_embedding = in_double
