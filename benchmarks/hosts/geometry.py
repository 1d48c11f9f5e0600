"""implicit-volume: density, features, normals of every kind, and the gradients of all weights."""

import torch

from benchmarks.hosts import seeded
from benchmarks.hosts.session import Cases, Rows, Session, gradients

NORMALS = {
    "tiny": ("analytic", "finite_difference", "finite_difference_laplacian", "pred"),
    "full": ("analytic", "finite_difference"),
}
N_POINTS = 4096


def cases(session: Session) -> Cases:
    found = {
        f"{name}/{normal_type}": _volume(session, name, normal_type)
        for name, normal_types in NORMALS.items()
        for normal_type in normal_types
    }
    return found | {f"{name}/density_bias": _biases(session, name) for name in NORMALS}


def _biases(session: Session, name: str) -> Rows:
    for bias in ("blob_dreamfusion", "-1.0"):
        config = session.config(name, f"system.geometry.density_bias={bias}").system.geometry
        volume = session.build("implicit-volume", config)
        with torch.no_grad():
            yield bias, volume.forward_density(_points(session, name))


def _points(session: Session, name: str) -> torch.Tensor:
    encoding = session.config(name).system.geometry.pos_encoding_config
    return (2 * seeded.points_in_cells(encoding, N_POINTS) - 1).to(session.device)


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
