"""A run so small that it trains in milliseconds, with every part a real one has."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import threestudio
import torch
from omegaconf import OmegaConf
from threestudio.systems.base import BaseSystem
from threestudio.utils.config import parse_structured
from torch.utils.data import DataLoader, IterableDataset


@dataclass
class ToyDataConfig:
    size: int = 4


class ToyBatches(IterableDataset):
    """An endless stream whose batch i is a function of i alone."""

    def __init__(self, size: int, first: Callable[[], int]) -> None:
        super().__init__()
        self.size, self.first = size, first

    def __iter__(self) -> Iterator[dict[str, Any]]:
        index = self.first()
        while True:
            x = np.random.default_rng(index).standard_normal(self.size)
            yield {"x": torch.from_numpy(x).float(), "batch": index}
            index += 1


@threestudio.register("toy-datamodule")
class ToyDataModule(pl.LightningDataModule):
    cfg: ToyDataConfig

    def __init__(self, cfg: Any = None) -> None:
        super().__init__()
        self.cfg = parse_structured(ToyDataConfig, cfg)

    def train_dataloader(self) -> DataLoader:
        def first() -> int:
            return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed

        return DataLoader(ToyBatches(self.cfg.size, first), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader([{"x": torch.ones(self.cfg.size)}] * 2, batch_size=None)

    test_dataloader = predict_dataloader = val_dataloader


@threestudio.register("toy-system")
class ToySystem(BaseSystem):
    """A linear model with momentum; draws noise that only depends on the step."""

    @dataclass
    class Config(BaseSystem.Config):
        size: int = 4
        fail_at_step: int = -1  # raises there
        prompt_processor: dict = field(default_factory=dict)  # nobody asks it

    cfg: Config

    def configure(self) -> None:
        self.layer = torch.nn.Linear(self.cfg.size, 1)
        self.steps: list[tuple[int, int]] = []
        self.validated: list[int] = []

    def save_numbers(self, filename: str, numbers: Any) -> None:
        Path(self.get_save_path(filename)).write_text(json.dumps(numbers))

    def training_step(self, batch, batch_idx):
        step = self.true_global_step
        if step == self.cfg.fail_at_step:
            raise ValueError("system.fail_at_step: the toy was told to fail.")
        self.steps.append((step, batch["batch"]))
        noise = torch.randn(1, generator=torch.Generator().manual_seed(step))
        loss = ((self.layer(batch["x"]) - noise) ** 2).mean()
        self.log("train/loss", loss, prog_bar=True)
        return {"loss": loss}

    def validation_step(self, batch, batch_idx):
        self.validated.append(self.true_global_step)
        torch.randn(7)  # moves the global generator, as rendering may

    def on_validation_epoch_end(self):
        self.save_numbers(f"it{self.true_global_step}-validation.json", self.true_global_step)

    def test_step(self, batch, batch_idx):
        pass

    def on_test_epoch_end(self):
        self.save_numbers(f"it{self.true_global_step}-test.json", self.steps)

    def predict_step(self, batch, batch_idx):
        pass

    def on_predict_epoch_end(self):
        self.save_numbers(f"it{self.true_global_step}-export/model.json", {})


def write_config(path: Path, **changes: Any) -> Path:
    """A config of 20 steps, checkpoints every 5, validation every 4; `changes` are merged in."""
    config = {
        "name": "toy",
        "tag": "run",
        "use_timestamp": False,
        "exp_root_dir": str(path.parent / "outputs"),
        "seed": 3,
        "data_type": "toy-datamodule",
        "data": {"size": 4},
        "system_type": "toy-system",
        "system": {
            "optimizer": {
                "name": "AdamW",
                "args": {"lr": 0.01, "betas": [0.9, 0.99]},
                "params": {"layer": {"lr": 0.1}},
            },
            "scheduler": {"name": "StepLR", "interval": "step", "args": {"step_size": 3}},
        },
        "trainer": {
            "max_steps": 20,
            "val_check_interval": 4,
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 0,
            "precision": "16-mixed",
        },
        "checkpoint": {"save_last": True, "save_top_k": -1, "every_n_train_steps": 5},
    }
    OmegaConf.save(OmegaConf.merge(config, changes), path)
    return path
