"""Builds a run out of a config and carries it out, in the standalone host or threestudio."""

import json
import logging
import os
import re
import shlex
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import threestudio
import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.callbacks import Callback, LearningRateMonitor, ModelCheckpoint, ProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_only
from threestudio.utils.callbacks import ConfigSnapshotCallback
from threestudio.utils.config import load_config
from threestudio.utils.misc import get_rank

from ..slugs import folder_name
from .checkpoints import (
    AtomicCheckpointIO,
    checkpoints_in,
    find_checkpoint,
    read_checkpoint,
    telling_what_does_not_fit,
)
from .config_check import check_combinations, check_config, drop_keys_of_other_types
from .ending import Ending, status
from .errors import is_lost_device, is_out_of_memory
from .finite import StopAtNonFinite
from .metrics import RunMetrics
from .options import Options, requested_devices
from .outputs import WholeOutputs
from .ownership import FolderTakenError, owned
from .progress import progress_callback
from .resume import CHECKPOINTS, config_file, run_config, run_folder

NEW_FOLDER_KEYS = ("tag", "timestamp", "use_timestamp", "name", "exp_root_dir")
LAUNCHER = "jointdreamer.host.launcher"


def execute(options: Options, n_gpus: int, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Does what `options` ask for, and returns what `launcher.run` does.

    Raises:
        SystemExit: after SIGTERM or Ctrl-C, with the signal's status.
    """
    _quieten()
    with ExitStack() as stack:
        ending = stack.enter_context(Ending().listening())
        cfg = experiment(options, n_gpus, stack)
        try:
            return _carry_out(cfg, options, [*callbacks, ending])
        except BaseException as error:
            if ending.began and any(Path(cfg.trial_dir, CHECKPOINTS).glob("*.ckpt")):
                rank_zero_info(f"To go on: {_resume_command(cfg.trial_dir)}")
            if is_out_of_memory(error):
                raise ValueError(ending.out_of_memory(cfg)) from error
            if is_lost_device(error):
                text = "the process of another device has ended: see what it says."
                raise ValueError(text) from error
            raise


def _carry_out(cfg: DictConfig, options: Options, callbacks: Sequence[Callback]) -> dict[str, Any]:
    pl.seed_everything(cfg.seed + get_rank(), workers=True)
    datamodule = threestudio.find(cfg.data_type)(cfg.data)
    system = threestudio.find(cfg.system_type)(cfg.system, resumed=cfg.resume is not None)
    save_dir = os.path.join(cfg.trial_dir, "save")
    fits = telling_what_does_not_fit(cfg.resume, _differing(run_config(cfg.resume), cfg))
    trainer = make_trainer(cfg, options, system, [*callbacks, WholeOutputs(save_dir)])
    if options.action == "train":
        with fits:
            trainer.fit(system, datamodule=datamodule, ckpt_path=cfg.resume)
        trainer.test(system, datamodule=datamodule)
    else:
        ckpt = read_checkpoint(cfg.resume, whole=False)
        system.set_resume_status(ckpt["epoch"], ckpt["global_step"])
        do = {"validate": trainer.validate, "test": trainer.test, "export": trainer.predict}
        with fits:
            do[options.action](system, datamodule=datamodule, ckpt_path=cfg.resume)
    return {
        "trial_dir": cfg.trial_dir,
        "save_dir": save_dir,
        "ckpt": _newest_checkpoint(cfg),
        "global_step": system.true_global_step,
    }


def _resume_command(trial_dir: str) -> str:
    """As one types it in a shell."""
    program = sys.argv[0] if os.path.basename(sys.argv[0]) == "launch.py" else f"-m {LAUNCHER}"
    resume = f"resume={trial_dir}"
    if OmegaConf.from_cli([resume]).resume != trial_dir:
        resume = f"resume={json.dumps(trial_dir, ensure_ascii=False)}"
    return f"python {program} --train {shlex.quote(resume)}"


def _newest_checkpoint(cfg: DictConfig) -> str | None:
    found = checkpoints_in(Path(cfg.trial_dir, CHECKPOINTS))
    return found[0][-1] if found else cfg.resume


def experiment(options: Options, n_gpus: int, stack: ExitStack) -> DictConfig:
    """The checked config of the run; `resume` in it is a checkpoint's path or None.

    A run that goes on from a checkpoint in a run's folder stays in that folder, unless the command
    line names another one. The run has its folder until `stack` is closed.

    Raises:
        FolderTakenError: its folder is another run's, or another process is at it.
        ValueError: for misspelt keys, missing values, and when there is nothing to evaluate.
        FileNotFoundError: if there is no checkpoint to resume from.
    """
    raw = written(options)
    if not raw.get("resume") and options.action != "train":
        raise ValueError(
            f"--{options.action}: nothing trained yet that could be used. Train with --train, then "
            "pass resume=<the run's folder or one of its checkpoints>."
        )
    fixed: dict[str, Any] = {"n_gpus": n_gpus}
    of_run = None
    if raw.get("resume"):
        fixed["resume"] = find_checkpoint(raw.resume)
        of_run = run_folder(raw.resume)
        if of_run and not any(key in options.overrides for key in NEW_FOLDER_KEYS):
            fixed |= _keys_of_folder(str(of_run))
    while True:
        cfg = resolved(raw, **fixed)
        folder = Path(cfg.trial_dir)
        try:
            if get_rank() == 0:  # the other devices' processes follow it
                goes_on = of_run is not None and folder.resolve() == of_run.resolve()
                stack.enter_context(owned(folder, goes_on))
            break
        except FolderTakenError:
            if not cfg.timestamp or "timestamp" in fixed or raw.get("timestamp") is not None:
                raise
            time.sleep(0.1)  # until the clock gives it a name of its own
    if differing := _differing(run_config(raw.get("resume")), cfg):
        rank_zero_info(f"Other settings than the run's: {differing}.")
    if options.action == "train" and (was := _devices(raw.get("resume"))) not in (None, n_gpus):
        rank_zero_info(
            f"On {n_gpus} device{'s' * (n_gpus != 1)}, before on {was}: a step sees {n_gpus} x "
            "data.batch_size views, and draws other cameras and noises."
        )
    return cfg


def written(options: Options) -> DictConfig:
    """The config with its overrides, keys and values checked, interpolations not resolved."""
    raw = options.raw
    for key in ("exp_dir", "trial_name", "trial_dir", "n_gpus"):
        if key in options.overrides:
            raise ValueError(f"{key} follows from --gpu, exp_root_dir, name and tag: set these.")
    parts = map(OmegaConf.to_container, (options.base, options.overrides))
    for line in drop_keys_of_other_types(raw, *parts):
        rank_zero_info(line)
    return check_config(raw)


def resolved(raw: DictConfig, **fixed: Any) -> DictConfig:
    """The whole config; the run's folder lies below `exp_root_dir`, whatever its names are.

    Args:
        fixed: top-level keys, taken as they are.
    """
    with suppress(OmegaConfBaseException):  # of what is missing, which load_config tells
        name = [folder_name(part) for part in raw.get("name", "").split("/") if part]
        tag = raw.get("tag")
        names = {"name": "/".join(name), "tag": tag and folder_name(tag)}
        fixed = {key: value for key, value in names.items() if value} | fixed
    cfg = load_config(OmegaConf.to_yaml(raw), from_string=True, **fixed)
    check_combinations(cfg)
    return cfg


def _devices(resume: str | None) -> int | None:
    """How many the run that `resume` names or lies in was last trained on."""
    path = config_file(resume) if resume else None
    return None if path is None else OmegaConf.load(path).get("n_gpus")


def _differing(before: DictConfig, now: DictConfig) -> str:
    """The settings that the run was not trained with, for people."""
    settings = dict(_values(now))
    pairs = [(key, settings.get(key), value) for key, value in _values(before)]
    differing = [f"{key}={new!r} (was {old!r})" for key, new, old in pairs if new != old]
    more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
    return ", ".join(differing[:5]) + more


def _values(block: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in block.items():
        if OmegaConf.is_dict(value):
            yield from _values(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" not in NEW_FOLDER_KEYS:
            yield f"{prefix}{key}", value


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
    try:
        return pl.Trainer(**settings)
    except (TypeError, KeyError, AttributeError) as error:  # it does not check all that it takes
        given = OmegaConf.to_container(cfg.trainer)
        raise ValueError(f"trainer={given} does not fit Lightning's Trainer: {error}") from error


def _quieten() -> None:
    """Leaves out what Lightning says about every run of this kind and nobody needs to act on."""
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # cameras cost nothing
    warnings.filterwarnings("ignore", ".*exists and is not empty.*")  # that is what resuming is
    warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint.*")
    warnings.filterwarnings("ignore", ".*predict returned None.*")  # meshes go to files
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated.*")  # between Lightning and torch
    warnings.filterwarnings("ignore", ".*Using `DistributedSampler`.*")  # views may be drawn twice
    for name in ("utilities.rank_zero", "trainer.connectors.checkpoint_connector"):
        logging.getLogger(f"pytorch_lightning.{name}").addFilter(_is_of_use)


def _is_of_use(record: logging.LogRecord) -> bool:
    """Not Lightning's tips, nor the devices that are not there."""
    noise = ("GPU available", "TPU available", "`weights_only` was not set")
    return not record.getMessage().startswith(noise) and "Tip:" not in record.getMessage()


def _training_callbacks(cfg: DictConfig, options: Options) -> list[Callback]:
    metrics = RunMetrics(cfg.trial_dir, resumed=cfg.resume is not None)
    view = []
    if options.view is not None and get_rank() == 0:
        from ..viewer.live import LiveView, open_page  # imports matplotlib

        page = open_page(options.view, cfg, trains=True)
        view = [LiveView(page, cfg.trial_dir, metrics.leave_out, ending=status)]
    # a step reached again is the same step: its file is replaced, not numbered
    checkpoint = {"enable_version_counter": False, **OmegaConf.to_container(cfg.checkpoint)}
    return [
        StopAtNonFinite(),
        ModelCheckpoint(dirpath=os.path.join(cfg.trial_dir, CHECKPOINTS), **checkpoint),
        LearningRateMonitor(logging_interval="step"),
        metrics,
        ConfigSnapshotCallback(
            str(options.config or config_file(options.raw.resume)),
            cfg,
            os.path.join(cfg.trial_dir, "configs"),
            use_version=False,
        ),
        *view,
    ]


def _where(trainer: DictConfig) -> dict[str, Any]:
    """The `trainer` block, with accelerator, devices and precision that this machine has."""
    settings = OmegaConf.to_container(trainer)
    has_gpu = torch.cuda.is_available()
    if settings.get("accelerator", "auto") in ("auto", "gpu", "cuda"):
        settings["accelerator"] = "gpu" if has_gpu else "cpu"
    on_cpu = settings["accelerator"] == "cpu"
    if not on_cpu and settings.get("precision") == "16-true":
        raise ValueError("trainer.precision=16-true: the occupancy grid needs 32 bits: 16-mixed.")
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
