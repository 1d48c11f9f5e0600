"""All losses, the gradients of all weights, and one optimizer step, in a whole system.

The system is threestudio's dreamfusion-system, and jointdreamer-system in the standalone host,
which has no other. Their losses are one definition.
"""

from typing import Any

import pytorch_lightning as pl
import threestudio
import torch
from omegaconf import OmegaConf
from threestudio.systems.base import BaseLift3DSystem
from torch import Tensor

from benchmarks.hosts import seeded
from benchmarks.hosts.rendering import LATE, batch_of_rays, system_config
from benchmarks.hosts.session import Cases, Rows, Session

SCALE = 1024.0  # of the loss in 16-mixed
LOSSES = {
    "lambda_sds": 1.0,
    "lambda_orient": [0, 10.0, 1000.0, 5000],
    "lambda_sparsity": 0.5,
    "lambda_opaque": 0.3,
    "lambda_z_variance": 0.2,
}


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


def cases(session: Session) -> Cases:
    found = {name: _step(session, name, mixed=False) for name in ("tiny", "full")}
    return found | {"full in 16-mixed": _step(session, "full", mixed=True)}


def _system(session: Session, name: str) -> Any:
    has_theirs = "dreamfusion-system" in threestudio.__modules__
    kind = threestudio.find("dreamfusion-system" if has_theirs else "jointdreamer-system")
    config = OmegaConf.to_container(system_config(session, name, prune=False))
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
        loss = system.training_step(batch_of_rays(session), 0)["loss"]
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
