"""Callbacks that keep a record of a run."""

import itertools
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.rank_zero import rank_zero_only

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
        with open(self.config_path, encoding="utf-8") as file:
            raw = file.read()  # before anything is written: it may be one of the two files
        for name, text in [("raw", raw), ("parsed", OmegaConf.to_yaml(self.config))]:
            path = Path(self.save_root, f"{name}.yaml")
            if path.exists():
                if path.read_text(encoding="utf-8") == text:
                    continue
                numbered = (path.with_suffix(f".{n}.yaml") for n in itertools.count(1))
                path.rename(next(older for older in numbered if not older.exists()))
            with replacing(str(path)) as temporary:
                Path(temporary).write_text(text, encoding="utf-8")

    def on_fit_start(self, trainer, pl_module) -> None:
        self.save_config_snapshot()
