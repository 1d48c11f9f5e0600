"""Transformers as their authors save them: weights renamed, stacked projections taken apart."""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor


def apart(weights: Mapping[str, Tensor], stacked: str, parts: Sequence[str]) -> dict[str, Tensor]:
    """The weights, those with `stacked` in their name as one for each of `parts`, row by row."""
    result = {}
    for name, tensor in weights.items():
        if stacked in name and tensor.shape[0] % len(parts) == 0:
            rows = zip(parts, tensor.chunk(len(parts)), strict=True)
            result |= {name.replace(stacked, part): some for part, some in rows}
        else:
            result[name] = tensor
    return result


def renamed(name: str, patterns: Mapping[str, str]) -> str:
    """The name after one regular expression after another is replaced."""
    for pattern, new in patterns.items():
        name = re.sub(pattern, new, name)
    return name
