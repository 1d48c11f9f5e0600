"""Weights and inputs from a seed, and digests of results: what both sides of a comparison share.

Numbers come from NumPy's `RandomState`, whose stream is frozen, so that a digest made once with a
reference implementation stays valid on every machine and version.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from threestudio_jointdreamer.files import replacing
from torch import Tensor

SAMPLES = 64  # of a tensor's values in its digest


def fill(shapes: Mapping[str, Iterable[int]], seed: int) -> dict[str, Float64[Tensor, "..."]]:
    """One float64 tensor for each name; it depends on the name, the shape and the seed alone.

    Matrices and kernels are normal with deviation 1/√fan_in, so that activations keep their size
    through the layers; vectors called `weight` (norms' scales) are near 1, other vectors near 0.
    """
    return {name: _draw(name, tuple(shape), seed) for name, shape in shapes.items()}


def fill_module(module: torch.nn.Module, seed: int) -> dict[str, Float64[Tensor, "..."]]:
    """Fills a module's parameters in place, in float64; returns its state dict."""
    module.double()
    shapes = {name: tensor.shape for name, tensor in module.named_parameters()}
    module.load_state_dict(fill(shapes, seed), strict=False)
    return module.state_dict()


def noise(name: str, shape: Iterable[int], seed: int) -> Float64[Tensor, "..."]:
    """Standard normal numbers for an input."""
    return torch.from_numpy(_stream(name, seed).standard_normal(tuple(shape)))


def digest(tensor: Tensor) -> dict:
    """A fingerprint that can be compared with a tolerance: shape, norm, largest, some values."""
    flat = tensor.detach().double().flatten()
    places = np.linspace(0, len(flat) - 1, min(SAMPLES, len(flat))).astype(int)
    return {
        "shape": list(tensor.shape),
        "norm": flat.norm().item(),
        "largest": flat.abs().max().item(),
        "values": flat[torch.from_numpy(places)].tolist(),
    }


def digest_error(ours: dict, theirs: dict) -> float:
    """The largest difference of two digests, relative to the second one's largest value and norm.

    Raises:
        ValueError: the shapes differ.
    """
    if ours["shape"] != theirs["shape"]:
        raise ValueError(f"The shape is {ours['shape']}, the reference's {theirs['shape']}.")
    of_values = np.abs(np.subtract(ours["values"], theirs["values"])).max() / theirs["largest"]
    return float(max(of_values, abs(ours["norm"] / theirs["norm"] - 1)))


def digests(tensors: Mapping[str, Tensor]) -> dict[str, dict]:
    return {name: digest(tensor) for name, tensor in tensors.items()}


def digest_errors(ours: Mapping[str, Tensor], theirs: Mapping[str, dict]) -> dict[str, float]:
    """`digest_error` of each of our tensors."""
    return {name: digest_error(digest(ours[name]), theirs[name]) for name in ours}


def relative_errors(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """max |a − b| / max |b| of each."""
    return {
        name: ((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max()).item()
        for name in ours
    }


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def write_fixture(path: Path, **content: Any) -> None:
    """What a comparison needs where the reference is not at hand, as JSON, a line a key."""
    rows = (f'"{key}": {json.dumps(value)}' for key, value in content.items())
    with replacing(path) as file:
        file.write_text("{\n" + ",\n".join(rows) + "\n}\n")


def _draw(name: str, shape: tuple[int, ...], seed: int) -> Float64[Tensor, "..."]:
    values = torch.from_numpy(np.asarray(_stream(name, seed).standard_normal(shape)))
    if len(shape) > 1:
        return values / np.sqrt(np.prod(shape[1:]))
    return 0.1 * values + (1.0 if name.endswith("weight") else 0.0)


def _stream(name: str, seed: int) -> np.random.RandomState:
    key = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return np.random.RandomState(np.frombuffer(key[:16], dtype=np.uint32))
