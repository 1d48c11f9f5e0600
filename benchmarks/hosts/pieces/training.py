"""dreamfusion-system: all losses, the gradients of all weights, and one optimizer step."""

from typing import Any

import torch
from torch import Tensor

from benchmarks.hosts import recipe
from benchmarks.hosts.pieces.rendering import LATE, PIXELS, SAMPLES, VIEWS
from benchmarks.hosts.session import Rows, Session, each_of

SCALE = 1024.0  # of the loss in 16-mixed
LOSSES = {
    "lambda_sds": 1.0,
    "lambda_orient": [0, 10.0, 1000.0, 5000],
    "lambda_sparsity": 0.5,
    "lambda_opaque": 0.3,
    "lambda_z_variance": 0.2,
}


def rows(session: Session) -> Rows:
    _register_stand_ins()
    parts = [(name, _step(session, name, mixed=False)) for name in ("tiny", "full")]
    yield from each_of([*parts, ("full in 16-mixed", _step(session, "full", mixed=True))])


def _register_stand_ins() -> None:
    """A guidance and a prompt processor without models: the host's losses are what is compared."""
    import threestudio

    @threestudio.register("benchmark-guidance")
    class Guidance:
        def __init__(self, cfg: Any) -> None: ...

        def __call__(self, rgb: Tensor, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
            return {"loss_sds": (rgb * recipe.probe(rgb, "guidance")).sum() / len(rgb)}

    @threestudio.register("benchmark-prompts")
    class Prompts:
        def __init__(self, cfg: Any) -> None: ...

        def __call__(self) -> None: ...


def _system(session: Session, name: str) -> Any:
    import threestudio
    from omegaconf import OmegaConf

    settings = ["system.renderer.grid_prune=false"]
    settings += [f"system.renderer.num_samples_per_ray={SAMPLES[name]}"]
    system = OmegaConf.to_container(session.config(name, *settings).system)
    known = threestudio.find("dreamfusion-system").Config.__dataclass_fields__
    system = {key: value for key, value in system.items() if key in known}
    losses = LOSSES | ({"lambda_orient": 0.0} if name == "tiny" else {})
    system |= {"guidance_type": "benchmark-guidance", "guidance": {}, "loss": losses}
    system |= {"prompt_processor_type": "benchmark-prompts", "prompt_processor": {}}
    built = threestudio.find("dreamfusion-system")(OmegaConf.create(system))
    recipe.fill(built).to(session.device)
    built.on_fit_start()
    for part in (built.geometry, built.material, built.background):
        part.do_update_step(0, LATE)
    return built.train()


def _step(session: Session, name: str, mixed: bool) -> Rows:
    system = _system(session, name)
    logged: dict[str, Any] = {}
    system.log = lambda key, value, **kwargs: logged.update({key: value})
    optimizer = system.configure_optimizers()["optimizer"]
    batch = {key: value.to(session.device) for key, value in recipe.rays(VIEWS, PIXELS).items()}
    recipe.seed(0)
    with torch.autocast(session.device.type, dtype=torch.float16, enabled=mixed):
        loss = system.training_step(batch, 0)["loss"]
    (loss * (SCALE if mixed else 1.0)).backward()
    yield "loss", loss
    for key, value in logged.items():
        if key.startswith("train/loss_"):
            yield f"losses/{key.removeprefix('train/')}", torch.as_tensor(value).float()
    before = {key: value.detach().clone() for key, value in system.named_parameters()}
    for key, parameter in system.named_parameters():
        if parameter.numel() and parameter.grad is not None:
            yield f"gradient/{key}", parameter.grad / (SCALE if mixed else 1.0)
    if mixed:
        return
    optimizer.step()
    for key, parameter in system.named_parameters():
        if parameter.numel() and parameter.grad is not None:
            yield f"step/{key}", parameter.detach() - before[key]
