"""Lets frozen models with equal weights hold them once, such as one VAE in two priors."""

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_loaded: WeakKeyDictionary[nn.Module, dict[str, Tensor]] = WeakKeyDictionary()


def share_weights(model: nn.Module) -> nn.Module:
    """Gives `model` the tensors of a living model that are equal, if there is one.

    Equal means the same class, names, device and dtype, and every number the same: all of them are
    compared, so nothing is assumed. Only the tensors are shared, which must not be changed from
    now on; the module stays the caller's own, with its attention processors or compiled parts.
    The weights are freed with the last model that uses them.

    Returns:
        The same object, `model`.
    """
    mine = dict(model.state_dict())
    for other, theirs in _loaded.items():
        if (
            type(other) is type(model)
            and mine.keys() == theirs.keys()
            and all(_equal(mine[name], theirs[name]) for name in mine)
        ):
            parameters = dict(model.named_parameters()) | dict(model.named_buffers())
            for name in mine:
                parameters[name].data = theirs[name]
            mine = theirs
            break
    _loaded[model] = mine
    return model


def _equal(a: Tensor, b: Tensor) -> bool:
    return (a.device, a.dtype, a.shape) == (b.device, b.dtype, b.shape) and torch.equal(a, b)
