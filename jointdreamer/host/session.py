"""Builds a run out of a config and carries it out, in the standalone host or threestudio."""

import logging
import os
import re
import shlex
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import threestudio
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, LearningRateMonitor, ModelCheckpoint, ProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_only
from threestudio.utils.callbacks import ConfigSnapshotCallback
from threestudio.utils.config import load_config
from threestudio.utils.misc import get_rank

from .checkpoints import AtomicCheckpointIO, find_checkpoint, read_checkpoint
from .config_check import check_config
from .metrics import RunMetrics
from .options import Options, requested_devices
from .progress import progress_callback
from .resume import CHECKPOINTS, config_file, run_config, run_folder

NEW_FOLDER_KEYS = ("tag", "timestamp", "use_timestamp", "name", "exp_root_dir")
PROMPT = "system.prompt_processor.prompt"


def execute(options: Options, n_gpus: int, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Does what `options` ask for, and returns what `launcher.run` does."""
    _quieten()
    cfg = experiment(options, n_gpus)
    pl.seed_everything(cfg.seed + get_rank(), workers=True)
    datamodule = threestudio.find(cfg.data_type)(cfg.data)
    system = threestudio.find(cfg.system_type)(cfg.system, resumed=cfg.resume is not None)
    save_dir = os.path.join(cfg.trial_dir, "save")
    system.set_save_dir(save_dir)
    trainer = make_trainer(cfg, options, system, callbacks)
    if options.action == "train":
        try:
            trainer.fit(system, datamodule=datamodule, ckpt_path=cfg.resume)
        except (SystemExit, OSError):  # Lightning's word for Ctrl-C; a full disk
            if _newest_checkpoint(cfg) is not None:
                rank_zero_info(f"Interrupted. To go on, add resume={cfg.trial_dir}")
            raise
        trainer.test(system, datamodule=datamodule)
    else:
        ckpt = read_checkpoint(cfg.resume, mmap=True)
        system.set_resume_status(ckpt["epoch"], ckpt["global_step"])
        do = {"validate": trainer.validate, "test": trainer.test, "export": trainer.predict}
        do[options.action](system, datamodule=datamodule, ckpt_path=cfg.resume)
    return {
        "trial_dir": cfg.trial_dir,
        "save_dir": save_dir,
        "ckpt": _newest_checkpoint(cfg),
        "global_step": system.true_global_step,
    }


def _newest_checkpoint(cfg: DictConfig) -> str | None:
    try:
        return find_checkpoint(cfg.trial_dir)
    except FileNotFoundError:
        return cfg.resume


def experiment(options: Options, n_gpus: int) -> DictConfig:
    """The checked config of the run; `resume` in it is a checkpoint's path or None.

    A run that goes on from a checkpoint in a run's folder stays in that folder, unless the command
    line names another one.

    Raises:
        ValueError: for misspelt keys, missing values, and when there is nothing to evaluate.
        FileNotFoundError: if there is no checkpoint to resume from.
    """
    raw = options.raw
    check_config(raw)
    if not raw.get("resume") and options.action != "train":
        raise ValueError(
            f"--{options.action}: nothing trained yet that could be used. Train with --train, then "
            "pass resume=<the run's folder or one of its checkpoints>."
        )
    fixed: dict[str, Any] = {"n_gpus": n_gpus}
    if raw.get("resume"):
        fixed["resume"] = find_checkpoint(raw.resume)
        folder = run_folder(raw.resume)
        if folder and not any(key in options.overrides for key in NEW_FOLDER_KEYS):
            fixed |= _keys_of_folder(str(folder))
    cfg = load_config(OmegaConf.to_yaml(raw), from_string=True, **fixed)
    before, now = (OmegaConf.select(c, PROMPT) for c in (run_config(raw.get("resume")), cfg))
    if before is not None and now != before:
        rank_zero_info(f"The prompt is now {now!r}; the run's was {before!r}.")
    os.makedirs(cfg.trial_dir, exist_ok=True)
    return cfg


def _keys_of_folder(trial_dir: str) -> dict[str, Any]:
    """The config keys that make `trial_dir` the run's folder, relative to here if it is below."""
    below = os.path.relpath(trial_dir)
    if not below.startswith(os.pardir) and below.count(os.sep) >= 2:
        trial_dir = below
    exp_dir, trial_name = os.path.split(trial_dir)
    exp_root_dir, name = os.path.split(exp_dir)
    tag, timestamp = re.fullmatch(r"(.*?)(@\d{8}-\d{6})?", trial_name).groups(default="")
    return {
        "exp_root_dir": exp_root_dir,
        "name": name,
        "tag": tag,
        "timestamp": timestamp,
        "use_timestamp": bool(timestamp),
    }


def make_trainer(
    cfg: DictConfig,
    options: Options,
    system: pl.LightningModule,
    callbacks: Sequence[Callback] = (),
) -> pl.Trainer:
    """Lightning's Trainer with our callbacks, after those given, loggers and checkpoints.

    On a machine without a GPU it runs on the CPU, in float32 where the config asks for float16.
    """
    settings = {"inference_mode": False, **_where(cfg.trainer), "plugins": [AtomicCheckpointIO()]}
    callbacks = [*callbacks]
    if cfg.trainer.get("enable_progress_bar", True):
        callbacks.append(progress_callback())
        settings["enable_progress_bar"] = isinstance(callbacks[-1], ProgressBar)
    settings |= {"callbacks": callbacks, "logger": False}
    if options.action == "train":
        callbacks += _training_callbacks(cfg, options)
        settings["logger"] = [
            TensorBoardLogger(cfg.trial_dir, name="tb_logs"),
            CSVLogger(cfg.trial_dir, name="csv_logs"),
            *system.get_loggers(),
        ]
        _note_command(cfg.trial_dir)
    else:
        settings["enable_checkpointing"] = False
    return pl.Trainer(**settings)


def _quieten() -> None:
    """Leaves out what Lightning says about every run of this kind and nobody needs to act on."""
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # cameras cost nothing
    warnings.filterwarnings("ignore", ".*exists and is not empty.*")  # that is what resuming is
    warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint.*")
    warnings.filterwarnings("ignore", ".*predict returned None.*")  # meshes go to files
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated.*")  # between Lightning and torch
    console = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    console.addFilter(_no_advertisement)


def _no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip:" not in record.getMessage()


def _training_callbacks(cfg: DictConfig, options: Options) -> list[Callback]:
    # a step reached again is the same step: its file is replaced, not numbered
    checkpoint = {"enable_version_counter": False, **OmegaConf.to_container(cfg.checkpoint)}
    return [
        ModelCheckpoint(dirpath=os.path.join(cfg.trial_dir, CHECKPOINTS), **checkpoint),
        LearningRateMonitor(logging_interval="step"),
        RunMetrics(cfg.trial_dir, resumed=cfg.resume is not None),
        ConfigSnapshotCallback(
            str(options.config or config_file(options.raw.resume)),
            cfg,
            os.path.join(cfg.trial_dir, "configs"),
            use_version=False,
        ),
    ]


def _where(trainer: DictConfig) -> dict[str, Any]:
    """The `trainer` block, with accelerator, devices and precision that this machine has."""
    settings = OmegaConf.to_container(trainer)
    has_gpu = torch.cuda.is_available()
    if settings.get("accelerator", "auto") in ("auto", "gpu", "cuda"):
        settings["accelerator"] = "gpu" if has_gpu else "cpu"
    on_cpu = settings["accelerator"] == "cpu"
    devices = requested_devices(trainer) or (1 if on_cpu else "auto")
    # a list is all that this process sees, so they are numbered from 0 again
    settings["devices"] = len(devices) if isinstance(devices, list) else devices
    if on_cpu:
        notice = "No GPU here: running on the CPU" if not has_gpu else "Running on the CPU"
        precision = str(settings.get("precision", "32-true"))
        if precision in ("16", "16-mixed", "16-true"):
            settings["precision"] = "32-true"
            notice += f", with precision 32-true and not {precision}"
        rank_zero_info(f"{notice}.")
    return settings


@rank_zero_only
def _note_command(trial_dir: str) -> None:
    with open(os.path.join(trial_dir, "cmd.txt"), "a", encoding="utf-8") as file:
        file.write(shlex.join(["python", *sys.orig_argv[1:]]) + "\n")
