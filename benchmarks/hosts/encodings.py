"""tiny-cuda-nn's encodings: outputs, derivatives, second derivatives."""

import torch
from omegaconf import OmegaConf
from threestudio.models.networks import get_encoding
from torch import Tensor

from benchmarks.hosts import seeded
from benchmarks.hosts.session import Cases, Rows, Session, gradients

GRID = {
    "otype": "HashGrid",
    "n_levels": 16,
    "n_features_per_level": 2,
    "log2_hashmap_size": 19,
    "base_resolution": 16,
    "per_level_scale": 1.447269237440378,
}
SMALL_GRID = GRID | {
    "n_levels": 4,
    "log2_hashmap_size": 15,
    "base_resolution": 8,
    "per_level_scale": 2.0,
}
CONFIGS = {
    "HashGrid of the tiny config": SMALL_GRID,
    "HashGrid of the full-size config": GRID,
    "DenseGrid": SMALL_GRID | {"otype": "DenseGrid", "n_levels": 2},
    "TiledGrid": SMALL_GRID | {"otype": "TiledGrid", "n_levels": 2},
    "SphericalHarmonics": {"otype": "SphericalHarmonics", "degree": 3},
}
N_POINTS = 4096


def cases(session: Session) -> Cases:
    return {name: _case(session, config) for name, config in CONFIGS.items()}


def _case(session: Session, config: dict) -> Rows:
    encoding = get_encoding(3, OmegaConf.create(config))
    seeded.fill(encoding).to(session.device)
    x = seeded.points_in_cells(config, N_POINTS).to(session.device).requires_grad_()
    output = encoding(x)
    yield "output", output
    scalar = (output * seeded.probe(output, "output")).sum()
    (slope,) = torch.autograd.grad(scalar, x, retain_graph=True)
    yield "derivative for the points", slope
    yield from _named("derivative", gradients(scalar, encoding))
    if "n_levels" in config:  # tiny-cuda-nn has second derivatives of grids only
        output = encoding(x)
        scalar = (output * seeded.probe(output, "output")).sum()
        (slope,) = torch.autograd.grad(scalar, x, create_graph=True)
        bent = (slope * seeded.probe(slope, "slope")).sum()
        yield "second derivative for the points", torch.autograd.grad(bent, x, retain_graph=True)[0]
        yield from _named("second derivative", gradients(bent, encoding))


def _named(what: str, values: dict[str, Tensor]) -> Rows:
    for name, value in values.items():
        yield f"{what} for {name.rpartition('.')[2]}", value
