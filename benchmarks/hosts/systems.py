"""What is made of the fields: renders, training steps, cameras and prompts; the list of all."""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import threestudio
import torch
from omegaconf import OmegaConf
from threestudio.systems.base import BaseLift3DSystem
from torch import Tensor

from benchmarks.hosts import fields, seeded
from benchmarks.hosts.session import PRIOR, PROMPT, Cases, Rows, Session

VIEWS, PIXELS = 2, 32
LATE = 6000  # a step at which the full-size config's material shades
SAMPLES = {"tiny": 64, "full": 128}
IMAGES = ("comp_rgb", "comp_rgb_fg", "comp_rgb_bg", "opacity", "depth", "z_variance", "comp_normal")
SCALE = 1024.0  # of the loss in 16-mixed
LOSSES = {
    "lambda_sds": 1.0,
    "lambda_orient": [0, 10.0, 1000.0, 5000],
    "lambda_sparsity": 0.5,
    "lambda_opaque": 0.3,
    "lambda_z_variance": 0.2,
}
CAMERAS = {
    "n_view": 4,
    "width": [32, 48],
    "height": [32, 64],
    "batch_size": [8, 4],
    "resolution_milestones": [20],
    "progressive_until": 50,
    "eval_height": 32,
    "eval_width": 48,
    "n_val_views": 4,
    "n_test_views": 9,
}
STEPS = (0, 1, 19, 20, 60)
ELEVATION = [10.0, 10.0, 10.0, 80.0, 0.0, 30.0]
AZIMUTH = [0.0, 100.0, 180.0, 20.0, -60.0, 250.0]


@threestudio.register("benchmark-guidance")
class Guidance:
    """One without a model: the losses of the system are what is compared."""

    def __init__(self, cfg: Any) -> None: ...

    def __call__(self, rgb: Tensor, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        return {"loss_sds": (rgb * seeded.probe(rgb, "guidance")).sum() / len(rgb)}


@threestudio.register("benchmark-prompts")
class Prompts:
    def __init__(self, cfg: Any) -> None: ...

    def __call__(self) -> None: ...


def rendering(session: Session) -> Cases:
    """nerf-volume-renderer in evaluation and training, without and with occupancy grid."""
    return {
        f"{name}/{'grid_prune' if prune else 'no grid_prune'}": _renderer(session, name, prune)
        for name in ("tiny", "full")
        for prune in (False, True)
    }


def training(session: Session) -> Cases:
    """All losses, the gradients of all weights, and one optimizer step, in a whole system.

    The system is threestudio's dreamfusion-system, and jointdreamer-system in the standalone host,
    which has no other. Their losses are one definition.
    """
    found = {name: _step(session, name, mixed=False) for name in ("tiny", "full")}
    return found | {"full in 16-mixed": _step(session, "full", mixed=True)}


def cameras(session: Session) -> Cases:
    """The multi-view cameras under one seed: training, validation and test batches."""
    found = {f"multiview, {name}": _train_cameras(name) for name in ("dreamfusion", "magic3d")}
    return found | {"multiview": _eval_cameras()}


def prompts(session: Session) -> Cases:
    """Embeddings as the guidance asks for them, Perp-Neg's among them."""
    return {"jointdreamer-prompt-processor": _embeddings(session)}


COMPONENTS: dict[str, Callable[[Session], Cases]] = {
    "encodings": fields.encodings,
    "geometry": fields.geometry,
    "shading": fields.shading,
    "rendering": rendering,
    "training": training,
    "cameras": cameras,
    "prompts": prompts,
}
# threestudio marches rays on a GPU only, and puts its embeddings there
NEED_CUDA = ("rendering", "training", "prompts")


def _config(session: Session, name: str, prune: bool) -> Any:
    return session.config(
        name,
        f"system.renderer.grid_prune={str(prune).lower()}",
        f"system.renderer.num_samples_per_ray={SAMPLES[name]}",
    ).system


def _rays(session: Session) -> dict[str, Tensor]:
    return {key: value.to(session.device) for key, value in seeded.rays(VIEWS, PIXELS).items()}


def _renderer(session: Session, name: str, prune: bool) -> Rows:
    system = _config(session, name, prune)
    modules = {
        part: session.build(system[f"{part}_type"], system[part])
        for part in ("geometry", "material", "background")
    }
    renderer = session.build(system.renderer_type, system.renderer, **modules)
    everything = [renderer, *modules.values()]
    batch = _rays(session)
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


def _images(prefix: str, out: dict[str, Tensor]) -> Rows:
    yield from ((f"{prefix}/{key}", out[key]) for key in IMAGES if key in out)


def _system(session: Session, name: str) -> Any:
    has_theirs = "dreamfusion-system" in threestudio.__modules__
    kind = threestudio.find("dreamfusion-system" if has_theirs else "jointdreamer-system")
    config = OmegaConf.to_container(_config(session, name, prune=False))
    known = BaseLift3DSystem.Config.__dataclass_fields__
    config = {key: value for key, value in config.items() if key in known}
    losses = LOSSES | ({"lambda_orient": 0.0} if name == "tiny" else {})
    config |= {"guidance_type": "benchmark-guidance", "guidance": {}, "loss": losses}
    config |= {"prompt_processor_type": "benchmark-prompts", "prompt_processor": {}}
    system = kind(OmegaConf.create(config))
    seeded.fill(system).to(session.device)
    system.on_fit_start()
    for part in (system.geometry, system.material, system.background):
        part.do_update_step(0, LATE)
    return system.train()


def _step(session: Session, name: str, mixed: bool) -> Rows:
    system = _system(session, name)
    trainer = pl.Trainer(logger=False, log_every_n_steps=1, accelerator="cpu")
    system.trainer = trainer  # which it asks how often to log
    logged: dict[str, Any] = {}
    system.log = lambda key, value, **kwargs: logged.update({key: value})
    optimizer = system.configure_optimizers()["optimizer"]
    seeded.seed(0)
    with torch.autocast(session.device.type, dtype=torch.float16, enabled=mixed):
        loss = system.training_step(_rays(session), 0)["loss"]
    (loss * (SCALE if mixed else 1.0)).backward()
    yield "loss", loss
    for key, value in logged.items():
        if key.startswith("train/loss_"):
            yield f"losses/{key.removeprefix('train/')}", torch.as_tensor(value).float()
    trained = {
        key: parameter
        for key, parameter in system.named_parameters()
        if parameter.numel() and parameter.grad is not None
    }
    before = {key: parameter.detach().clone() for key, parameter in trained.items()}
    for key, parameter in trained.items():
        yield f"gradient/{key}", parameter.grad / (SCALE if mixed else 1.0)
    if mixed:
        return
    optimizer.step()
    for key, parameter in trained.items():
        yield f"step/{key}", parameter.detach() - before[key]


def _train_cameras(lights: str) -> Rows:
    seeded.seed(3)
    data = _data_module(light_sample_strategy=lights)
    for step in STEPS:
        yield from _batch(f"train {step}", data.train_dataset.collate(step))


def _eval_cameras() -> Rows:
    data = _data_module()
    for split, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        for number, batch in enumerate(loader):
            yield from _batch(f"{split} {number}", batch)


def _data_module(**config: str) -> Any:
    kind = threestudio.find("jointdreamer-multiview-camera-datamodule")
    data = kind(OmegaConf.create(CAMERAS | config))
    data.setup("fit")
    data.setup("test")
    return data


def _batch(name: str, batch: dict[str, Any]) -> Rows:
    for key, value in sorted(batch.items()):
        yield f"{name}/{key}", torch.as_tensor(value).float()


def _embeddings(session: Session) -> Rows:
    config = {
        "pretrained_model_name_or_path": str(PRIOR),
        "prompt": PROMPT,
        "negative_prompt": "a red bear",
        "use_perp_neg": True,
        "spawn": False,
        "cache_dir": str(session.folder / "cache"),
    }
    processor = threestudio.find("jointdreamer-prompt-processor")(config)
    processor.do_update_step(0, 10)
    utils = processor()
    where = [torch.tensor(x, device=session.device) for x in (ELEVATION, AZIMUTH)]
    where.append(torch.ones(len(ELEVATION), device=session.device))
    for view_dependent in (False, True):
        picked = utils.get_text_embeddings(*where, view_dependent)
        yield f"embeddings, view-dependent {view_dependent}", picked
    embeddings, weights = utils.get_text_embeddings_perp_neg(*where, True)
    yield "embeddings of Perp-Neg", embeddings
    yield "weights of Perp-Neg", weights
