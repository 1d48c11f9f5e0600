"""State dicts: renamed by diffusers' converters, and held to a model's names and shapes."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def children(names: Iterable[str], prefix: str) -> set[str]:
    """The next part of each name after `prefix`: {"0", "1"} for a list of two modules."""
    return {name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)}


def renaming(
    convert: Callable[..., Mapping[str, Tensor]],
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    prefix: str = "",
) -> dict[str, str]:
    """The names that a converter of diffusers gives, each with the name it stems from.

    The converters drop in silence what they do not know. So they are given one-element stand-ins
    that carry the number of their name: what comes out tells where each came from, and costs no
    memory.

    Args:
        prefix: what the converter wants in front of the names.

    Raises:
        KeyError: the converter needs a weight that is not there.
    """
    names = list(weights)
    stand_ins = {
        prefix + name: torch.full([1] * max(weights[name].ndim, 1), index)
        for index, name in enumerate(names)
    }
    converted = convert(stand_ins, dict(config))
    return {new: names[int(stand_in.sum())] for new, stand_in in converted.items()}


def empty_model(model_class: type[nn.Module], config: Any, **arguments: Any) -> nn.Module:
    """A model of this config without memory for its weights and buffers.

    Raises:
        ValueError: the config fits no model of the class.
    """
    try:
        with torch.device("meta"):
            if hasattr(model_class, "from_config"):
                return model_class.from_config(dict(config), **arguments)
            return model_class(model_class.config_class.from_dict(dict(config)))
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"it fits no {model_class.__name__} ({error})") from error


def fit(
    weights: Mapping[str, Tensor], names: Mapping[str, str], model: nn.Module
) -> dict[str, Tensor]:
    """The weights under a model's own names, held to its state dict.

    Where the model has a matrix, a 1x1 kernel of the same channels serves.

    Args:
        names: for each new name the one in `weights`.

    Raises:
        ValueError: weights that the model does not have, or the other way round, or other shapes.
    """
    wanted = model.state_dict()
    fitted = {
        new: _flat(weights[old], wanted[new].shape) for new, old in names.items() if new in wanted
    }
    used = {names[new] for new in fitted}
    check_names(
        missing=wanted.keys() - fitted.keys(),
        surplus=weights.keys() - used,
        misshapen=misshapen(
            {names[new]: tensor for new, tensor in fitted.items()},
            {names[new]: wanted[new].shape for new in fitted},
        ),
    )
    return fitted


def check_state_dict(weights: Mapping[str, Tensor], wanted: Mapping[str, Collection[int]]) -> None:
    """Raises a ValueError unless the weights have just these names and shapes."""
    check_names(
        missing=wanted.keys() - weights.keys(),
        surplus=weights.keys() - wanted.keys(),
        misshapen=misshapen(weights, wanted),
    )


def misshapen(weights: Mapping[str, Tensor], wanted: Mapping[str, Collection[int]]) -> list[str]:
    """Which weights have other shapes than wanted, or no real numbers, and what both are."""
    integers = [
        f"{name} of {tensor.dtype} instead of floating point"
        for name, tensor in weights.items()
        if name in wanted and not tensor.is_floating_point()
    ]
    return integers + [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(shape)}"
        for name, shape in wanted.items()
        if name in weights and tuple(weights[name].shape) != tuple(shape)
    ]


def check_names(
    missing: Collection[str] = (), surplus: Collection[str] = (), misshapen: Collection[str] = ()
) -> None:
    """Raises a ValueError that names what is missing, unknown or misshapen, if anything is."""
    kinds = {"missing": missing, "unknown": surplus, "misshapen": misshapen}
    problems = [f"{kind} {some(names)}" for kind, names in kinds.items() if names]
    if problems:
        raise ValueError("; ".join(problems))


def some(names: Collection[str], most: int = 5) -> str:
    """A few of the names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(sorted(names)[:most]) + more


def _flat(tensor: Tensor, wanted: torch.Size) -> Tensor:
    if tensor.ndim > len(wanted) and tensor.shape[len(wanted) :].numel() == 1:
        return tensor.reshape(tensor.shape[: len(wanted)])
    return tensor
