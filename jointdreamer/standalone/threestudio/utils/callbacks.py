"""Callbacks that keep a record of a run."""

import os
from typing import Any

from omegaconf import OmegaConf
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from threestudio.utils.config import dump_config
from threestudio.utils.files import replacing


class VersionedCallback(Callback):
    """A callback that writes to `save_root`, or to a `version_N` folder of its own there."""

    def __init__(
        self, save_root: str, version: int | str | None = None, use_version: bool = True
    ) -> None:
        self.save_root = save_root
        self._version = version
        self.use_version = use_version

    @property
    def version(self) -> int | str:
        """The version given, or the first number that is free."""
        if self._version is None:
            entries = os.listdir(self.save_root) if os.path.isdir(self.save_root) else []
            numbers = [e.removeprefix("version_") for e in entries if e.startswith("version_")]
            self._version = 1 + max((int(n) for n in numbers if n.isdecimal()), default=-1)
        return self._version

    @property
    def savedir(self) -> str:
        if not self.use_version:
            return self.save_root
        name = self.version if isinstance(self.version, str) else f"version_{self.version}"
        return os.path.join(self.save_root, name)


class ConfigSnapshotCallback(VersionedCallback):
    """Writes the config file as given (raw.yaml) and as understood (parsed.yaml).

    When a run is continued with other settings, the older files stay as `raw.1.yaml` and so on.
    """

    def __init__(
        self,
        config_path: str,
        config: Any,
        save_root: str,
        version: int | str | None = None,
        use_version: bool = True,
    ) -> None:
        super().__init__(save_root, version, use_version)
        self.config_path = config_path
        self.config = config

    @rank_zero_only
    def save_config_snapshot(self) -> None:
        os.makedirs(self.savedir, exist_ok=True)
        raw, parsed = (os.path.join(self.savedir, name) for name in ("raw.yaml", "parsed.yaml"))
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
