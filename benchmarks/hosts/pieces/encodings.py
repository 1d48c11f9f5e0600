"""tiny-cuda-nn's encodings and threestudio's own: outputs, derivatives, second derivatives."""

import torch
from torch import Tensor

from benchmarks.hosts import recipe
from benchmarks.hosts.session import Rows, Session, each_of, gradients

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
CASES = {
    "HashGrid of the tiny config": SMALL_GRID,
    "HashGrid of the full-size config": GRID,
    "DenseGrid": SMALL_GRID | {"otype": "DenseGrid", "n_levels": 2},
    "TiledGrid": SMALL_GRID | {"otype": "TiledGrid", "n_levels": 2},
    "Frequency": {"otype": "Frequency", "n_frequencies": 6},
    "ProgressiveBandFrequency": {
        "otype": "ProgressiveBandFrequency",
        "n_frequencies": 6,
        "n_masking_step": 100,
        "include_xyz": True,
    },
    "SphericalHarmonics": {"otype": "SphericalHarmonics", "degree": 3},
    "ProgressiveBandHashGrid": SMALL_GRID
    | {
        "otype": "ProgressiveBandHashGrid",
        "start_level": 2,
        "start_step": 10,
        "update_steps": 5,
    },
}
N_POINTS = 4096
STEP = 17  # progressive encodings are half way


def rows(session: Session) -> Rows:
    cases = dict(CASES)
    if session.device.type != "cuda":
        del cases["ProgressiveBandHashGrid"]  # threestudio's keeps its mask on the GPU
    yield from each_of((name, _case(session, config)) for name, config in cases.items())


def _case(session: Session, config: dict) -> Rows:
    from omegaconf import OmegaConf
    from threestudio.models.networks import get_encoding

    encoding = get_encoding(3, OmegaConf.create(config))
    recipe.fill(encoding).to(session.device)
    encoding.do_update_step(0, STEP)
    x = recipe.points_in_cells(config, N_POINTS).to(session.device).requires_grad_()
    output = encoding(x)
    yield "output", output
    scalar = (output * recipe.probe(output, "output")).sum()
    is_grid = "n_levels" in config
    (slope,) = torch.autograd.grad(scalar, x, retain_graph=True)
    yield "derivative for the points", slope
    yield from _named("derivative", gradients(scalar, encoding))
    if is_grid:  # tiny-cuda-nn has second derivatives of grids only
        output = encoding(x)
        scalar = (output * recipe.probe(output, "output")).sum()
        (slope,) = torch.autograd.grad(scalar, x, create_graph=True)
        bent = (slope * recipe.probe(slope, "slope")).sum()
        yield "second derivative for the points", torch.autograd.grad(bent, x, retain_graph=True)[0]
        yield from _named("second derivative", gradients(bent, encoding))


def _named(what: str, values: dict[str, Tensor]) -> Rows:
    for name, value in values.items():
        yield f"{what} for {name.rpartition('.')[2]}", value
