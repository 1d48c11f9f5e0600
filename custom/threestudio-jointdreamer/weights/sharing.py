"""Lets frozen models with equal weights hold them once, such as one VAE in two priors."""

from weakref import WeakSet

import torch
from torch import Tensor, nn

_loaded: WeakSet[nn.Module] = WeakSet()  # not their tensors: a model that moves lets go of them


def share_weights(model: nn.Module) -> nn.Module:
    """Gives `model` the tensors of a living model that are equal, if there is one.

    Equal means the same class, names, device and dtype, and every number the same: all of them are
    compared, so nothing is assumed. Only the tensors are shared, which must not be changed from
    now on; the module stays the caller's own, with its attention processors or compiled parts.
    The weights are freed once the last model that uses them is gone, or has moved elsewhere.

    Returns:
        The same object, `model`.
    """
    mine = model.state_dict()
    for other in _loaded:
        theirs = other.state_dict() if type(other) is type(model) else {}
        if mine.keys() == theirs.keys() and all(_equal(mine[x], theirs[x]) for x in mine):
            parameters = dict(model.named_parameters()) | dict(model.named_buffers())
            for name in mine:
                parameters[name].data = theirs[name]
            break
    _loaded.add(model)
    return model


def _equal(a: Tensor, b: Tensor) -> bool:
    return (a.device, a.dtype, a.shape) == (b.device, b.dtype, b.shape) and torch.equal(a, b)
