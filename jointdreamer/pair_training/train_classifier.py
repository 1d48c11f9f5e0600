"""Trains a pair classifier to the end, from where it stopped, and writes its folder."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from threestudio_jointdreamer.priors.pair_classifier import PairClassifier
from threestudio_jointdreamer.weights.files import replacing_folder
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..tinyworld.denoised import Denoiser
from ..tinyworld.models import N_VIEW
from ..tinyworld.pairs import make_groups
from .backbones import DINO_IMAGE_SIZE, TINY, TINY_IMAGE_SIZE, dino_classifier, tiny_classifier
from .pair_training import PairTraining, Rates
from .progress import StepsBar
from .views_folder import ViewsFolder

TINYWORLD = "tinyworld"
TINY_PRIOR, NO_PRIOR = "load/tiny/stable-diffusion", "none"
METRICS = "metrics.json"
SETTINGS = "settings.json"
CHECKPOINT = "last"


@dataclass(frozen=True)
class Settings:
    """What the result depends on; a training that is gone on with must have the same.

    Args:
        data: `tinyworld`, or a folder as `ViewsFolder` reads it.
        backbone: `tiny`, or a DINO as `load_dino` takes it.
        train_blocks: how many of DINO's last blocks learn; the paper's authors train three of 12.
        image_size: height and width that the classifier sees.
        objects: how many objects of the tiny world to render, or at most to take of a folder.
        held_out: how many objects of the tiny world to test with; for a folder, the share of its
            objects that is kept from training.
        n_view: views of an object in a batch.
        batch: objects in a batch, of each device.
        steps, lr: of the optimizer.
        seed: seeds every draw.
        denoise_with: a 2D prior; half of the tiny world's objects are shown as it denoises them.
    """

    data: str
    backbone: str
    train_blocks: int
    image_size: int
    objects: int | None
    held_out: float
    n_view: int
    batch: int
    steps: int
    lr: float
    seed: int
    denoise_with: str | None


def default_settings(data: str = TINYWORLD, **changes) -> Settings:
    """The tiny world's settings, or those for a folder of objects; `changes` that are None too."""
    if data == TINYWORLD:
        defaults = {"backbone": TINY, "objects": 20_000, "held_out": 1000, "batch": 64, "lr": 5e-4}
        defaults |= {"steps": 6000, "denoise_with": TINY_PRIOR}
    else:
        defaults = {
            "backbone": "facebook/dino-vits16",
            "objects": None,
            "held_out": 0.01,
            "batch": 32,
            "lr": 3e-4,
            "steps": 20_000,
            "denoise_with": None,
        }
    defaults |= {"train_blocks": 3, "n_view": N_VIEW, "seed": 0}
    chosen = defaults | {name: value for name, value in changes.items() if value is not None}
    is_tiny = chosen["backbone"] == TINY
    if chosen["denoise_with"] == NO_PRIOR:
        chosen["denoise_with"] = None
    chosen.setdefault("image_size", TINY_IMAGE_SIZE if is_tiny else DINO_IMAGE_SIZE)
    settings = Settings(data=data, **chosen)
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    least = {"steps": 1, "batch": 2, "n_view": 2, "train_blocks": 0, "image_size": 16}
    least |= {"objects": 2} if settings.objects is not None else {}
    for name, minimum in least.items():
        if getattr(settings, name) < minimum:
            option = name.replace("_", "-").replace("n-view", "views")
            raise ValueError(f"--{option} {getattr(settings, name)}: give {minimum} or more.")
    if not settings.lr > 0:
        raise ValueError(f"--lr {settings.lr}: give a number above 0.")
    is_world = settings.data == TINYWORLD
    if is_world and (settings.held_out < 2 or settings.held_out % 1):
        raise ValueError(f"--held-out {settings.held_out}: give a number of objects, 2 or more.")
    if not is_world and not 0 < settings.held_out < 1:
        raise ValueError(f"--held-out {settings.held_out}: give a share of the objects, as 0.01.")
    if settings.denoise_with and not is_world:
        raise ValueError(
            f"--denoise-with {settings.denoise_with}: views are denoised for captions, and "
            f"a folder has none: leave it out, or give --data {TINYWORLD}."
        )
    if settings.backbone == TINY and settings.image_size != TINY_IMAGE_SIZE:
        raise ValueError(
            f"--image-size {settings.image_size}: the tiny backbone sees {TINY_IMAGE_SIZE} pixels. "
            "Give a --backbone, such as facebook/dino-vits16, for others."
        )


class _Groups(Dataset):
    """Groups of views that are in memory, the GPU's if they were rendered there."""

    def __init__(self, groups: Mapping[str, Tensor]) -> None:
        self.groups = groups

    def __len__(self) -> int:
        return len(self.groups["images"])

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """A whole batch, so that none has to be put together of its parts."""
        rows = torch.tensor(indices)
        return {name: tensor[rows.to(tensor.device)] for name, tensor in self.groups.items()}


def _as_it_is(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return batch


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
    """Trains, tests on held-out objects, and writes `out`, whole or not at all.

    `out` holds the classifier as `load_pair_classifier` reads it, and metrics.json: the settings,
    the metrics of held-out objects, and their history. Until then `.<out>.training` beside it holds
    the newest checkpoint, from which a second call goes on.

    Args:
        accelerator, devices: Lightning's; several devices share the objects by DDP.
        workers: processes that read a folder.
        overwrite: let the result take the place of `out` if that is there.
        fresh: start over where an interrupted training could be gone on with.
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
    state = out.with_name(f".{out.name}.training")
    pl.seed_everything(settings.seed, workers=True, verbose=False)
    classifier = _build(settings)  # its refusals come before anything is written
    checkpoint = _checkpoint(state, settings, fresh)
    trainer = _trainer(settings, state, accelerator, devices, save_every)
    loaders = _loaders(settings, workers, trainer.strategy.root_device)
    _remember(state, settings)

    scale = 1.0 if settings.backbone == TINY else 0.1
    rates = Rates(settings.steps, settings.lr, scale, warmup=max(1, min(500, settings.steps // 10)))
    module = PairTraining(classifier.train(), rates, settings.seed)
    trainer.fit(module, *loaders, ckpt_path=checkpoint)
    if not module.history or module.history[-1]["step"] != settings.steps:
        trainer.validate(module, loaders[1], verbose=False)
    if trainer.is_global_zero:
        _write(classifier, out, settings, module.history, overwrite)
        shutil.rmtree(state, ignore_errors=True)
    return module.history[-1]


def _build(settings: Settings) -> PairClassifier:
    if settings.backbone == TINY:
        return tiny_classifier()
    return dino_classifier(settings.backbone, settings.train_blocks, settings.image_size)


def _loaders(
    settings: Settings, workers: int, device: torch.device
) -> tuple[DataLoader, DataLoader]:
    """Batches for training, and of held-out objects."""
    in_memory = settings.data == TINYWORLD
    if in_memory:
        counts = {False: settings.objects, True: int(settings.held_out)}
        denoiser = None
        if settings.denoise_with:
            denoiser = Denoiser(settings.denoise_with, device, "--denoise-with")
        training, held_out = (
            _Groups(
                make_groups(n, settings.seed + 17 + side, device, side, settings.n_view, denoiser)
            )
            for side, n in counts.items()
        )
        workers = 0
    else:
        root, sizes = Path(settings.data).expanduser(), (settings.n_view, settings.image_size)
        training, held_out = (
            ViewsFolder(root, side, settings.held_out, *sizes, settings.objects)
            for side in (False, True)
        )

    def load(groups: Dataset, shuffle: bool) -> DataLoader:
        return DataLoader(
            groups,
            batch_size=min(settings.batch, len(groups)),
            shuffle=shuffle,
            drop_last=True,  # a pair needs an object to differ from
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda" and not in_memory,
            collate_fn=_as_it_is if in_memory else None,
        )

    return load(training, True), load(held_out, False)


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
        callbacks=[saving, StepsBar("pair classifier")],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=state,
        use_distributed_sampler=True,
    )


def _checkpoint(state: Path, settings: Settings, fresh: bool) -> Path | None:
    """The checkpoint to go on from, after a look at whose it is."""
    if fresh and "LOCAL_RANK" not in os.environ:  # not again in the processes of further devices
        shutil.rmtree(state, ignore_errors=True)
    told, wanted = state / SETTINGS, asdict(settings)
    before = json.loads(told.read_text()) if told.exists() else wanted
    for name, value in wanted.items():
        if before.get(name) != value:
            raise ValueError(
                f"{state} holds a training with {name}={before.get(name)!r}, not {value!r}: "
                "give the same options to go on with it, --fresh to start over, or another --out."
            )
    path = state / f"{CHECKPOINT}.ckpt"
    return path if path.exists() else None


def _remember(state: Path, settings: Settings) -> None:
    state.mkdir(parents=True, exist_ok=True)
    temporary = state / f".{SETTINGS}.{os.getpid()}"
    temporary.write_text(json.dumps(asdict(settings)))
    os.replace(temporary, state / SETTINGS)


def _write(
    classifier: PairClassifier,
    out: Path,
    settings: Settings,
    history: list[dict[str, float]],
    overwrite: bool,
) -> None:
    report = {
        "settings": asdict(settings),
        "held_out": history[-1],
        "history": history,
    }
    if settings.backbone == TINY:
        classifier = classifier.half()  # is read in either precision, and shipped
    with replacing_folder(out, overwrite) as new:
        classifier.save_pretrained(new)
        (new / METRICS).write_text(json.dumps(report, indent=2) + "\n")
