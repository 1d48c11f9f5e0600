"""Reads an experiment's config as far as it is given, to look at what it would run."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from .host.options import read_override
from .paths import find_file


def read_experiment(path: Path, overrides: Sequence[str] = ()) -> DictConfig:
    """The config with `key=value` overrides; values that are not given yet may be missing.

    A snippet that goes under `system.guidance`, as those in configs/energies, is read as a config
    with this energy and without a 2D prior.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no YAML, or an override no `key=value`.
    """
    path = find_file(path, "CONFIG")
    try:
        cfg = OmegaConf.merge(OmegaConf.load(path), *map(read_override, overrides))
    except (YAMLError, OmegaConfBaseException, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} and {' '.join(overrides) or 'no overrides'} do not make a config ({reason}). "
            "Check the YAML and the key=value arguments."
        ) from error
    if not OmegaConf.is_dict(cfg):
        raise ValueError(f"{path} must hold `key: value` lines at its top level.")
    if "energy_type" in cfg and "system" not in cfg:
        cfg.pretrained_model_name_or_path = ""
        return OmegaConf.create({"system": {"guidance_type": "jsd-guidance", "guidance": cfg}})
    return cfg
