"""Trains a pair classifier to the end, from where it stopped, and writes its folder."""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar
from threestudio_jointdreamer.files import replacing
from threestudio_jointdreamer.priors.pair_classifier import PairClassifier
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..tinyworld.denoised import Denoiser
from ..tinyworld.training import TrainingPlan
from ..tinyworld.view_groups import make_view_groups
from .backbones import TINY, dino_classifier, tiny_classifier
from .pair_training import PairTraining
from .settings import Settings
from .views_folder import ViewsFolder

METRICS = "metrics.json"
SETTINGS = "settings.json"
CHECKPOINT = "last"


def train_classifier(
    settings: Settings,
    out: Path,
    accelerator: str = "auto",
    devices: int = 1,
    workers: int = 0,
    overwrite: bool = False,
    fresh: bool = False,
    save_every: int = 500,
) -> dict[str, float]:
    """Trains, tests on held-out objects, and writes `out`, complete or not at all.

    `out` holds the classifier as `load_pair_classifier` reads it, and metrics.json: the settings,
    the metrics of held-out objects, and their history. Until then `.<out>.training` beside it holds
    the newest checkpoint, from which a second call goes on.

    Args:
        accelerator, devices: Lightning's; several devices share the objects by DDP.
        workers: processes that read a folder.
        overwrite: let the result replace `out` if that is there.
        fresh: start over instead of resuming an interrupted training.
        save_every: steps between checkpoints.

    Returns:
        The metrics of held-out objects after the last step.

    Raises:
        ValueError: `out` is there, or holds another training's checkpoint; bad data.
        FileNotFoundError: no such data or backbone.
    """
    out = out.expanduser().absolute()
    if out.is_file() or not overwrite and out.is_dir() and any(out.iterdir()):
        raise ValueError(f"--out {out} exists already: give --overwrite, or another name.")
    state, is_tiny = out.with_name(f".{out.name}.training"), settings.backbone == TINY
    pl.seed_everything(settings.seed, workers=True, verbose=False)
    if is_tiny:  # errors about the backbone or the data come before anything is written
        classifier = tiny_classifier()
    else:
        classifier = dino_classifier(settings.backbone, settings.train_blocks, settings.image_size)
    checkpoint = _checkpoint(state, settings, fresh)
    trainer = _trainer(settings, state, accelerator, devices, save_every)
    loaders = _loaders(settings, workers, trainer.strategy.root_device)
    with replacing(state / SETTINGS) as path:
        path.write_text(json.dumps(asdict(settings)))

    warmup = max(1, min(500, settings.steps // 10))
    plan = TrainingPlan(settings.steps, settings.lr, warmup, seed=settings.seed)
    module = PairTraining(classifier.train(), plan, backbone_lr_scale=1.0 if is_tiny else 0.1)
    trainer.fit(module, *loaders, ckpt_path=checkpoint)
    if not module.history or module.history[-1]["step"] != settings.steps:
        trainer.validate(module, loaders[1], verbose=False)
    if trainer.is_global_zero:
        _write(classifier.half() if is_tiny else classifier, out, settings, module.history)
        shutil.rmtree(state, ignore_errors=True)
    return module.history[-1]


class ViewGroups(Dataset):
    """Groups of views in memory, the GPU's if they were rendered there."""

    def __init__(self, groups: Mapping[str, Tensor]) -> None:
        self.groups = groups

    def __len__(self) -> int:
        return len(self.groups["images"])

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """A whole batch, already collated."""
        rows = torch.tensor(indices)
        return {name: tensor[rows.to(tensor.device)] for name, tensor in self.groups.items()}


def _loaders(
    settings: Settings, workers: int, device: torch.device
) -> tuple[DataLoader, DataLoader]:
    """Batches for training, and of held-out objects."""
    denoiser = None
    if settings.denoise_with:
        denoiser = Denoiser(settings.denoise_with, device, "--denoise-with")

    def load(held_out: bool) -> DataLoader:
        if settings.in_tinyworld:
            n, seed = settings.objects, settings.seed + 17
            if held_out:
                n, seed = int(settings.held_out), settings.seed + 18
            groups = ViewGroups(
                make_view_groups(n, seed, device, held_out, settings.n_view, denoiser)
            )
            options = {"collate_fn": lambda batch: batch}
        else:
            root, sizes = Path(settings.data).expanduser(), (settings.n_view, settings.image_size)
            groups = ViewsFolder(root, held_out, settings.held_out, *sizes, settings.objects)
            options = {"num_workers": workers, "persistent_workers": workers > 0}
            options["pin_memory"] = device.type == "cuda"
        batch = min(settings.batch, len(groups))
        # a pair needs an object to differ from, so an incomplete batch is dropped
        return DataLoader(groups, batch, shuffle=not held_out, drop_last=True, **options)

    return load(False), load(True)


def _trainer(
    settings: Settings, state: Path, accelerator: str, devices: int, save_every: int
) -> pl.Trainer:
    saving = ModelCheckpoint(
        dirpath=state,
        filename=CHECKPOINT,
        every_n_train_steps=save_every,
        save_top_k=1,
        enable_version_counter=False,
    )
    on_terminal = sys.stdout.isatty()
    on_gpu = accelerator == "gpu" or accelerator == "auto" and torch.cuda.is_available()
    return pl.Trainer(
        accelerator=accelerator,
        devices=devices,
        precision="bf16-mixed" if on_gpu else "32-true",
        max_steps=settings.steps,
        max_epochs=-1,
        val_check_interval=max(1, settings.steps // 10),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        callbacks=[saving, TQDMProgressBar()] if on_terminal else [saving],
        logger=False,
        enable_progress_bar=on_terminal,
        enable_model_summary=False,
        default_root_dir=state,
        use_distributed_sampler=True,
    )


def _checkpoint(state: Path, settings: Settings, fresh: bool) -> Path | None:
    """The checkpoint to resume, if it is of a training with these settings."""
    if fresh and "LOCAL_RANK" not in os.environ:  # not again in the processes of further devices
        shutil.rmtree(state, ignore_errors=True)
    file, wanted = state / SETTINGS, asdict(settings)
    before = json.loads(file.read_text()) if file.exists() else wanted
    for name, value in wanted.items():
        if before.get(name) != value:
            raise ValueError(
                f"{state} holds a training with {name}={before.get(name)!r}, not {value!r}: "
                "give the same options to go on with it, --fresh to start over, or another --out."
            )
    path = state / f"{CHECKPOINT}.ckpt"
    return path if path.exists() else None


def _write(
    classifier: PairClassifier, out: Path, settings: Settings, history: list[dict[str, float]]
) -> None:
    report = {"settings": asdict(settings), "held_out": history[-1], "history": history}
    with replacing(out) as new:
        classifier.save_pretrained(new)
        (new / METRICS).write_text(json.dumps(report, indent=2) + "\n")
