"""Cameras of both data modules under one seed: training, validation and test batches."""

from typing import Any

import torch

from benchmarks.hosts import recipe
from benchmarks.hosts.session import Rows, Session

RANDOM = {  # threestudio's own, with all that can be drawn
    "width": [32, 48],
    "height": [32, 64],
    "batch_size": [5, 2],  # with 3, threestudio's cross product takes the batch for the vectors
    "resolution_milestones": [20],
    "progressive_until": 50,
    "eval_height": 32,
    "eval_width": 48,
    "n_val_views": 4,
    "n_test_views": 9,
}
GROUPS = {
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


def rows(session: Session) -> Rows:
    for lights in ("dreamfusion", "magic3d"):
        config = RANDOM | {"light_sample_strategy": lights}
        data = _module(session, "random-camera-datamodule", config)
        for step in STEPS:
            recipe.seed(step)
            data.train_dataset.update_step(0, step)
            yield from _batch(f"random, {lights}/train {step}", data.train_dataset.collate(None))
    yield from _evaluation("random", data)

    for lights in ("dreamfusion", "magic3d"):
        recipe.seed(3)
        config = GROUPS | {"light_sample_strategy": lights}
        data = _module(session, "jointdreamer-multiview-camera-datamodule", config)
        for step in STEPS:
            yield from _batch(f"multiview, {lights}/train {step}", data.train_dataset.collate(step))
    yield from _evaluation("multiview", data)


def _module(session: Session, name: str, config: dict) -> Any:
    import threestudio
    from omegaconf import OmegaConf

    data = threestudio.find(name)(OmegaConf.create(config))
    data.setup("fit")
    data.setup("test")
    return data


def _evaluation(name: str, data: Any) -> Rows:
    for split, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        for number, batch in enumerate(loader):
            yield from _batch(f"{name}/{split} {number}", batch)


def _batch(name: str, batch: dict[str, Any]) -> Rows:
    for key, value in sorted(batch.items()):
        yield f"{name}/{key}", torch.as_tensor(value).float()
