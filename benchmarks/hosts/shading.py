"""Materials and backgrounds, in training and in evaluation."""

from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.hosts import seeded
from benchmarks.hosts.session import Cases, Rows, Session, gradients

N_POINTS = 4096
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


def cases(session: Session) -> Cases:
    found = {name: _material(session, name, config) for name, config in MATERIALS.items()}
    return found | {name: _background(session, name, cfg) for name, cfg in BACKGROUNDS.items()}


def _inputs(session: Session) -> dict[str, Tensor]:
    def vectors(name: str) -> Tensor:
        return seeded.normal(name, N_POINTS, 3).to(session.device)

    return {
        "features": vectors("features"),
        "positions": 0.4 * vectors("positions"),
        "light_positions": 2 * vectors("light positions"),
        "viewdirs": normalize(vectors("viewdirs"), dim=-1),
        "shading_normal": normalize(vectors("normals"), dim=-1),
    }


def _material(session: Session, name: str, config: dict) -> Rows:
    material = session.build(name, config)
    inputs = _inputs(session)
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
