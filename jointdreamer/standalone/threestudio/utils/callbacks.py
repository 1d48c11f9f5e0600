"""Callbacks that keep a record of a run."""

import os
from typing import Any

from omegaconf import OmegaConf
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from threestudio.utils.config import dump_config
from threestudio.utils.files import replacing


class ConfigSnapshotCallback(Callback):
    """Writes the config file as given (raw.yaml) and as understood (parsed.yaml) to a folder.

    When a run is continued with other settings, the older files stay as `raw.1.yaml` and so on.
    """

    def __init__(
        self, config_path: str, config: Any, save_root: str, *, use_version: bool = False
    ) -> None:
        assert not use_version, "this host numbers no folders"
        self.config_path = config_path
        self.config = config
        self.save_root = save_root

    @rank_zero_only
    def save_config_snapshot(self) -> None:
        raw, parsed = (os.path.join(self.save_root, name) for name in ("raw.yaml", "parsed.yaml"))
        with open(self.config_path, encoding="utf-8") as file:
            text = file.read()  # before anything is written: it may be one of the two files
        if _set_aside(raw, text):
            with replacing(raw) as temporary, open(temporary, "w", encoding="utf-8") as file:
                file.write(text)
        if _set_aside(parsed, OmegaConf.to_yaml(self.config)):
            dump_config(parsed, self.config)

    def on_fit_start(self, trainer, pl_module) -> None:
        self.save_config_snapshot()


def _set_aside(path: str, text: str) -> bool:
    """Renames an older file at `path`; False if it holds `text` already and can stay."""
    if not os.path.exists(path):
        return True
    with open(path, encoding="utf-8") as file:
        if file.read() == text:
            return False
    stem, extension = os.path.splitext(path)
    number = 1
    while os.path.exists(f"{stem}.{number}{extension}"):
        number += 1
    os.rename(path, f"{stem}.{number}{extension}")
    return True
