"""Materials and backgrounds, in training and in evaluation."""

import torch
from torch import Tensor

from benchmarks.hosts import recipe
from benchmarks.hosts.session import Rows, Session, each_of, gradients

N_POINTS = 4096
SEEDS = 6  # enough that every kind of shading and of background is drawn
MATERIALS = ("no-material", "diffuse-with-point-light-material")
BACKGROUNDS = {
    "solid-color-background": {"color": [0.85, 0.4, 0.1], "random_aug": True},
    "neural-environment-map-background": {
        "random_aug": True,
        "color_activation": "sigmoid",
        "eval_color": [1.0, 0.9, 0.8],
    },
    "neural-environment-map-background:jointdreamer-shared-augmentation": {"random_aug": True},
}


def rows(session: Session) -> Rows:
    parts = [(name, _material(session, name)) for name in MATERIALS]
    parts += [(name, _background(session, name, config)) for name, config in BACKGROUNDS.items()]
    yield from each_of(parts)


def _inputs(session: Session) -> dict[str, Tensor]:
    def vectors(name: str) -> Tensor:
        return recipe.normal(name, N_POINTS, 3).to(session.device)

    return {
        "features": vectors("features"),
        "positions": 0.4 * vectors("positions"),
        "light_positions": 2 * vectors("light positions"),
        "viewdirs": torch.nn.functional.normalize(vectors("viewdirs"), dim=-1),
        "shading_normal": torch.nn.functional.normalize(vectors("normals"), dim=-1),
    }


def _material(session: Session, name: str) -> Rows:
    config = {"soft_shading": True} if name.startswith("diffuse") else {}
    material = session.build(name, config)
    inputs = _inputs(session)
    for step, phase in ((0, "early"), (2000, "late")):
        material.do_update_step(0, step)
        yield f"{phase}, evaluation", material.eval()(**inputs)
        material.train()
        for number in range(SEEDS):
            recipe.seed(number)
            yield f"{phase}, training, seed {number}", material(**inputs)
    yield "export", material.export(**inputs)["albedo"]


def _background(session: Session, name: str, config: dict) -> Rows:
    background = session.build(name, config)
    dirs = recipe.rays(4, 16)["rays_d"].to(session.device)
    yield "evaluation", background.eval()(dirs=dirs)
    background.train()
    for number in range(SEEDS):
        recipe.seed(number)
        color = background(dirs=dirs)
        yield f"training, seed {number}", color
    if any(p.numel() for p in background.parameters()):
        scalar = (color * recipe.probe(color, "color")).sum()
        for weight, value in gradients(scalar, background).items():
            yield f"gradient for {weight}", value
