"""nerf-volume-renderer: images in evaluation and training, without and with occupancy grid."""

import torch

from benchmarks.hosts import recipe
from benchmarks.hosts.session import Rows, Session, each_of

VIEWS, PIXELS = 2, 32
LATE = 6000  # a step at which the full-size config's material shades
SAMPLES = {"tiny": 64, "full": 128}
IMAGES = ("comp_rgb", "comp_rgb_fg", "comp_rgb_bg", "opacity", "depth", "z_variance", "comp_normal")


def rows(session: Session) -> Rows:
    yield from each_of(
        (f"{name}/{'grid_prune' if prune else 'no grid_prune'}", _renderer(session, name, prune))
        for name in ("tiny", "full")
        for prune in (False, True)
    )


def _parts(session: Session, name: str, prune: bool):
    """The renderer of a config and what it renders, weights filled."""
    settings = [f"system.renderer.grid_prune={str(prune).lower()}"]
    settings += [f"system.renderer.num_samples_per_ray={SAMPLES[name]}"]
    system = session.config(name, *settings).system
    modules = {
        part: session.build(system[f"{part}_type"], system[part])
        for part in ("geometry", "material", "background")
    }
    return session.build(system.renderer_type, system.renderer, **modules), modules


def _renderer(session: Session, name: str, prune: bool) -> Rows:
    renderer, modules = _parts(session, name, prune)
    everything = [renderer, *modules.values()]
    batch = {key: value.to(session.device) for key, value in recipe.rays(VIEWS, PIXELS).items()}
    for module in everything:
        module.train()
    recipe.seed(0)
    renderer.update_step(0, 0)
    for module in modules.values():
        module.do_update_step(0, LATE)
    if prune:
        yield "occupancies", renderer.estimator.occs
        yield "occupied cells", renderer.estimator.binaries.sum().float()

    for number in range(3):  # different draws of shading and background
        recipe.seed(number)
        out = renderer(**batch)
        yield f"training {number}/samples", torch.tensor(float(len(out["points"])))
        for key in IMAGES:
            if key in out:
                yield f"training {number}/{key}", out[key]
    with session.autocast():
        recipe.seed(0)
        yield "training in 16-mixed/comp_rgb", renderer(**batch)["comp_rgb"]

    for module in everything:
        module.eval()
    with torch.no_grad():
        out = renderer(**batch)
    for key in IMAGES:
        if key in out:
            yield f"evaluation/{key}", out[key]
