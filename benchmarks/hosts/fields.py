"""What is asked at points: encodings, density and features and normals, shading, backgrounds."""

import torch
from omegaconf import OmegaConf
from threestudio.models.networks import get_encoding
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.hosts import seeded
from benchmarks.hosts.session import Cases, Rows, Session, gradients

N_POINTS = 4096
NORMALS = {
    "tiny": ("analytic", "finite_difference", "finite_difference_laplacian", "pred"),
    "full": ("analytic", "finite_difference"),
}
SEEDS = 6  # enough that every kind of shading and of background is drawn
MATERIALS = {"no-material": {}, "diffuse-with-point-light-material": {"soft_shading": True}}
BACKGROUNDS = {
    "solid-color-background": {"color": [0.85, 0.4, 0.1], "random_aug": True},
    "neural-environment-map-background": {
        "random_aug": True,
        "color_activation": "sigmoid",
        "eval_color": [1.0, 0.9, 0.8],
    },
    "neural-environment-map-background:jointdreamer-shared-augmentation": {"random_aug": True},
}


def encodings(session: Session) -> Cases:
    """tiny-cuda-nn's: outputs, derivatives, second derivatives."""
    small, full = (
        OmegaConf.to_container(session.config(name).system.geometry.pos_encoding_config)
        for name in ("tiny", "full")
    )
    configs = {
        "HashGrid of the tiny config": small,
        "HashGrid of the full-size config": full,
        "SphericalHarmonics": {"otype": "SphericalHarmonics", "degree": 3},
    }
    return {name: _encoding(session, config) for name, config in configs.items()}


def geometry(session: Session) -> Cases:
    """implicit-volume: density, features, normals of every kind, gradients of all weights."""
    found = {
        f"{name}/{normal_type}": _volume(session, name, normal_type)
        for name, normal_types in NORMALS.items()
        for normal_type in normal_types
    }
    return found | {f"{name}/density_bias": _biases(session, name) for name in NORMALS}


def shading(session: Session) -> Cases:
    """Materials and backgrounds, in training and in evaluation."""
    found = {name: _material(session, name, config) for name, config in MATERIALS.items()}
    return found | {name: _background(session, name, cfg) for name, cfg in BACKGROUNDS.items()}


def _encoding(session: Session, config: dict) -> Rows:
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


def _points(session: Session, name: str) -> Tensor:
    encoding = session.config(name).system.geometry.pos_encoding_config
    return (2 * seeded.points_in_cells(encoding, N_POINTS) - 1).to(session.device)


def _biases(session: Session, name: str) -> Rows:
    for bias in ("blob_dreamfusion", "-1.0"):
        config = session.config(name, f"system.geometry.density_bias={bias}").system.geometry
        volume = session.build("implicit-volume", config)
        with torch.no_grad():
            yield bias, volume.forward_density(_points(session, name))


def _volume(session: Session, name: str, normal_type: str) -> Rows:
    config = session.config(name, f"system.geometry.normal_type={normal_type}").system.geometry
    volume = session.build("implicit-volume", config)
    points = _points(session, name)
    with torch.no_grad():
        seen = volume(points.clone(), output_normal=True)
    yield "normal without gradients", seen["normal"]
    out = volume(points.clone(), output_normal=True)
    for key in ("density", "features", "normal"):
        yield key, out[key]
    yield "forward_density", volume.forward_density(points)
    yield "export", volume.export(points=points)["features"]
    for key in ("density", "features", "normal") if name == "tiny" else ("normal", "features"):
        scalar = (out[key] * seeded.probe(out[key], key)).sum()
        for weight, value in gradients(scalar, volume).items():
            yield f"gradient of the {key} for {weight}", value


def _material(session: Session, name: str, config: dict) -> Rows:
    def vectors(name: str) -> Tensor:
        return seeded.normal(name, N_POINTS, 3).to(session.device)

    inputs = {
        "features": vectors("features"),
        "positions": 0.4 * vectors("positions"),
        "light_positions": 2 * vectors("light positions"),
        "viewdirs": normalize(vectors("viewdirs"), dim=-1),
        "shading_normal": normalize(vectors("normals"), dim=-1),
    }
    material = session.build(name, config)
    for step, phase in ((0, "early"), (2000, "late")):
        material.do_update_step(0, step)
        yield f"{phase}, evaluation", material.eval()(**inputs)
        material.train()
        for number in range(SEEDS):
            seeded.seed(number)
            yield f"{phase}, training, seed {number}", material(**inputs)
    yield "export", material.export(**inputs)["albedo"]


def _background(session: Session, name: str, config: dict) -> Rows:
    background = session.build(name, config)
    dirs = seeded.rays(4, 16)["rays_d"].to(session.device)
    yield "evaluation", background.eval()(dirs=dirs)
    background.train()
    for number in range(SEEDS):
        seeded.seed(number)
        color = background(dirs=dirs)
        yield f"training, seed {number}", color
    scalar = (color * seeded.probe(color, "color")).sum()
    for weight, value in gradients(scalar, background).items():
        yield f"gradient for {weight}", value
