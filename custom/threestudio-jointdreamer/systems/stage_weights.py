"""What one stage takes over from another: checkpoints of plain data, and weights that fit.

threestudio knows two ways to go on from an earlier run: `system.weights`, the weights of all parts
that this config also has, and `system.geometry_convert_from`, the geometry alone, remade as another
kind. Both begin a run of its own at step 0, with fresh schedules and a fresh optimizer.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from threestudio.utils.misc import load_module_weights
from torch import nn

REMEDY = (
    "Give a run with the geometry of this config, name in system.weights_ignore_modules what may "
    "start anew, or remake the geometry with system.geometry_convert_from."
)


def make_plain(checkpoint: dict[str, Any]) -> None:
    """Replaces OmegaConf containers in a checkpoint by lists and dicts, in place.

    threestudio hands optimizers and schedulers their arguments as they stand in the config, so
    that OmegaConf lists may end up in their states. PyTorch from 2.6 on loads plain data only,
    unless told otherwise, and threestudio's `weights`, `geometry_convert_from`, --test and --export
    do not tell it.
    """
    for key, value in checkpoint.items():
        checkpoint[key] = plain(value)


def plain(value: Any) -> Any:
    """The value with OmegaConf containers in it, at any depth, as lists and dicts."""
    if OmegaConf.is_config(value):
        return OmegaConf.to_container(value, resolve=True)
    if type(value) is dict:
        return {key: plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain(item) for item in value)
    return value


def take_weights(
    module: nn.Module, weights: str, ignore_modules: Sequence[str] | None = None
) -> tuple[int, int]:
    """Loads what a checkpoint holds for `module`, whose geometry must be all in it.

    Args:
        weights: a checkpoint of another run, `system.weights`.
        ignore_modules: paths in `module` that start anew, `system.weights_ignore_modules`.

    Returns:
        The epoch and the global step at which it was saved.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of a run with another geometry.
    """
    if not Path(weights).is_file():
        raise FileNotFoundError(
            f"system.weights={weights} does not exist: give a checkpoint of the earlier stage, "
            "such as outputs/NAME/RUN/ckpts/last.ckpt."
        )
    state_dict, epoch, global_step = load_module_weights(
        weights, ignore_modules=ignore_modules, map_location="cpu"
    )
    try:
        missing = module.load_state_dict(state_dict, strict=False).missing_keys
    except RuntimeError as error:  # shapes, listed below a first line
        reason = " ".join(" ".join(str(error).splitlines()[1:]).split())
        raise ValueError(f"system.weights={weights} does not fit: {reason} {REMEDY}") from error
    anew = tuple(f"{name}." for name in ignore_modules or ())
    lacking = [
        key for key in missing if key.startswith("geometry.") and not f"{key}.".startswith(anew)
    ]
    if lacking:
        raise ValueError(
            f"system.weights={weights} holds nothing for {', '.join(lacking)}. {REMEDY}"
        )
    return epoch, global_step
