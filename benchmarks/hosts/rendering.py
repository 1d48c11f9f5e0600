"""nerf-volume-renderer: images in evaluation and training, without and with occupancy grid."""

from typing import Any

import torch

from benchmarks.hosts import seeded
from benchmarks.hosts.session import Cases, Rows, Session

VIEWS, PIXELS = 2, 32
LATE = 6000  # a step at which the full-size config's material shades
SAMPLES = {"tiny": 64, "full": 128}
IMAGES = ("comp_rgb", "comp_rgb_fg", "comp_rgb_bg", "opacity", "depth", "z_variance", "comp_normal")


def cases(session: Session) -> Cases:
    return {
        f"{name}/{'grid_prune' if prune else 'no grid_prune'}": _renderer(session, name, prune)
        for name in ("tiny", "full")
        for prune in (False, True)
    }


def system_config(session: Session, name: str, prune: bool) -> Any:
    return session.config(
        name,
        f"system.renderer.grid_prune={str(prune).lower()}",
        f"system.renderer.num_samples_per_ray={SAMPLES[name]}",
    ).system


def batch_of_rays(session: Session) -> dict[str, torch.Tensor]:
    return {key: value.to(session.device) for key, value in seeded.rays(VIEWS, PIXELS).items()}


def _renderer(session: Session, name: str, prune: bool) -> Rows:
    system = system_config(session, name, prune)
    modules = {
        part: session.build(system[f"{part}_type"], system[part])
        for part in ("geometry", "material", "background")
    }
    renderer = session.build(system.renderer_type, system.renderer, **modules)
    everything = [renderer, *modules.values()]
    batch = batch_of_rays(session)
    for module in everything:
        module.train()
    seeded.seed(0)
    renderer.update_step(0, 0)
    for module in modules.values():
        module.do_update_step(0, LATE)
    if prune:
        yield "occupancies", renderer.estimator.occs
        yield "occupied cells", renderer.estimator.binaries.sum().float()

    for number in range(3):  # different draws of shading and background
        seeded.seed(number)
        out = renderer(**batch)
        yield f"training {number}/samples", torch.tensor(float(len(out["points"])))
        yield from _images(f"training {number}", out)
    with session.autocast():
        seeded.seed(0)
        yield "training in 16-mixed/comp_rgb", renderer(**batch)["comp_rgb"]

    for module in everything:
        module.eval()
    with torch.no_grad():
        yield from _images("evaluation", renderer(**batch))


def _images(prefix: str, out: dict[str, torch.Tensor]) -> Rows:
    yield from ((f"{prefix}/{key}", out[key]) for key in IMAGES if key in out)
