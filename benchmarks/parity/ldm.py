"""What the references in LDM's layout share: their UNets in float64, and how ours are converted."""

import importlib
from pathlib import Path
from typing import Any

import torch
from threestudio_jointdreamer.weights.assembling import assemble
from threestudio_jointdreamer.weights.ldm.checkpoint import Hints, open_checkpoint
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
    "out_channels": 4,
}


def reference_unet(layers: str, kind: str, exact: bool = True, **config: Any) -> nn.Module:
    """A checkout's UNet, if `exact` without the casts to float32 that hide what is compared.

    Group norms compute in float32 whatever they are given, and the sines of the time step are not
    in the weights' precision.

    Args:
        layers: the module that holds its `openaimodel` and `util`.
    """
    unet = importlib.import_module(f"{layers}.openaimodel")
    if not exact:
        return getattr(unet, kind)(**BLOCKS | config)
    importlib.import_module(f"{layers}.util").GroupNorm32.forward = nn.GroupNorm.forward
    embedding = unet.timestep_embedding
    unet.timestep_embedding = lambda *args, **kwargs: embedding(*args, **kwargs).double()
    model = getattr(unet, kind)(**BLOCKS | config)
    model.dtype = torch.float64  # to which it casts its input
    return model


def converted(
    published: dict[str, Tensor], part: str, model_class: type[nn.Module], **hints: Any
) -> nn.Module:
    """A part as it is read from a checkpoint file of these weights; `hints` are those of Hints."""
    checkpoint = open_checkpoint(published, Path("checkpoint"), Hints(**hints))
    return assemble(model_class, *checkpoint.read(part))
