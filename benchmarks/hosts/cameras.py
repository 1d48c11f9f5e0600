"""The multi-view cameras under one seed: training, validation and test batches."""

from typing import Any

import threestudio
import torch
from omegaconf import OmegaConf

from benchmarks.hosts import seeded
from benchmarks.hosts.session import Cases, Rows, Session

CONFIG = {
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
LIGHTS = ("dreamfusion", "magic3d")


def cases(session: Session) -> Cases:
    found = {f"multiview, {lights}": _training(lights) for lights in LIGHTS}
    return found | {"multiview": _evaluation()}


def _training(lights: str) -> Rows:
    seeded.seed(3)
    data = _module({"light_sample_strategy": lights})
    for step in STEPS:
        yield from _batch(f"train {step}", data.train_dataset.collate(step))


def _evaluation() -> Rows:
    data = _module({})
    for split, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        for number, batch in enumerate(loader):
            yield from _batch(f"{split} {number}", batch)


def _module(config: dict) -> Any:
    kind = threestudio.find("jointdreamer-multiview-camera-datamodule")
    data = kind(OmegaConf.create(CONFIG | config))
    data.setup("fit")
    data.setup("test")
    return data


def _batch(name: str, batch: dict[str, Any]) -> Rows:
    for key, value in sorted(batch.items()):
        yield f"{name}/{key}", torch.as_tensor(value).float()
