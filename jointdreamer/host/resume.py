"""What `resume=` means: a run's folder or one of its checkpoints, and the config of that run."""

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

CHECKPOINTS = "ckpts"  # a run's folder of checkpoints, below its trial_dir
# follow from the others, or from this session
DERIVED = ("timestamp", "exp_dir", "trial_name", "trial_dir", "n_gpus", "resume")


def run_folder(resume: str) -> Path | None:
    """The folder of the run that `resume` names or lies in; None for a checkpoint moved away."""
    path = Path(os.path.abspath(resume))
    if (path / CHECKPOINTS).is_dir():
        return path
    folder = path if path.is_dir() else path.parent
    return folder.parent if folder.name == CHECKPOINTS else None


def config_file(resume: str) -> Path | None:
    """What the run that `resume` names or lies in was last trained with; None if there is none."""
    folder = run_folder(resume)
    path = None if folder is None else folder / "configs" / "parsed.yaml"
    return path if path is not None and path.is_file() else None


def run_config(resume: str | None) -> DictConfig:
    """That file's content, but for what follows from it; empty if there is none."""
    path = config_file(resume) if resume else None
    config = OmegaConf.create() if path is None else OmegaConf.load(path)
    return OmegaConf.masked_copy(config, [key for key in config if key not in DERIVED])


def filled(config: DictConfig, of_run: DictConfig) -> DictConfig:
    """The config, with the run's values where it has `???`; interpolations stay as they are."""

    def fill(block: dict[str, Any], source: dict[str, Any]) -> dict[str, Any]:
        for key, value in block.items():
            if value == "???":
                block[key] = source.get(key, value)
            elif isinstance(value, dict) and isinstance(source.get(key), dict):
                fill(value, source[key])
        return block

    return OmegaConf.create(fill(OmegaConf.to_container(config), OmegaConf.to_container(of_run)))
