"""What is evaluated: a tested run's prompt, method, seed and turntable frames."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from threestudio_jointdreamer.systems.picture_grid import Tile
from threestudio_jointdreamer.systems.turntable import nearest_views
from yaml import YAMLError

from ..runs import CONFIG, Run, Series, read_picture, turntable

PROMPT = "system.prompt_processor.prompt"


@dataclass(frozen=True)
class Frame:
    """One view of a turntable: its file, its azimuth in degrees, the render's width by height."""

    path: Path
    azimuth_deg: float
    aspect: float

    def picture(self) -> Tile:
        return read_picture(self.path, self.aspect)


@dataclass(frozen=True)
class Asset:
    """A tested run.

    Args:
        method: the config's `name` without the `-seed<seed>` that a sweep appends to it.
        step: the training step of the frames.
        frames: views all round, without the last one of threestudio's turntable, which repeats
            the first.
    """

    run: Run
    prompt: str
    method: str
    seed: int | None
    step: int
    frames: tuple[Frame, ...]

    def every(self, count: int | None) -> tuple[Frame, ...]:
        """`count` frames, evenly spaced; all of them if None, or if there are no more."""
        if count is None or count >= len(self.frames):
            return self.frames
        wanted = np.linspace(0, 360, count, endpoint=False).tolist()
        azimuths = [frame.azimuth_deg for frame in self.frames]
        return tuple(self.frames[index] for index in nearest_views(azimuths, wanted))

    def curve(self, name: str) -> Series:
        """What was logged by this name; empty if it was not, for a run shows renders without."""
        try:
            return self.run.metrics().get(name, [])
        except FileNotFoundError:
            return []


def find_runs(paths: Iterable[Path]) -> list[Run]:
    """The runs that are at `paths` or in folders below them, each once, in order.

    Raises:
        FileNotFoundError: a path does not exist, or there is no run at it.
    """
    found: dict[Path, Run] = {}
    for path in paths:
        if not path.is_dir():
            raise FileNotFoundError(f"{path} is no folder. Give runs, or folders that hold runs.")
        runs = sorted(config.parents[1] for config in path.rglob(str(CONFIG)))
        if not runs:
            raise FileNotFoundError(
                f"{path} holds no run: neither it nor a folder below has {CONFIG}. Give the "
                "folder that a run's training has made."
            )
        for folder in runs:
            found.setdefault(folder.resolve(), Run(folder))
    return list(found.values())


def read_asset(run: Run) -> Asset:
    """What a run's folder says of it.

    Raises:
        FileNotFoundError: the run has no config or was not tested.
        ValueError: its config has no prompt, or its turntable is not whole.
    """
    cfg = _read_config(run.folder / CONFIG)
    prompt = _value(cfg, PROMPT)
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(
            f"{run.folder / CONFIG} gives no text for {PROMPT}, so there is nothing to compare "
            "the renders with. Write the prompt there."
        )
    if prompt.startswith("lib:"):
        raise ValueError(
            f"{run.folder / CONFIG}: {PROMPT}={prompt!r} is a name in threestudio's prompt "
            "library. Write the text there that it stands for."
        )
    folder, seed = run.newest("test"), _value(cfg, "seed")
    name = str(_value(cfg, "name") or run.folder.parent.name)
    return Asset(
        run=run,
        prompt=" ".join(prompt.split()),
        method=name.removesuffix(f"-seed{seed}"),
        seed=seed,
        step=run.step_of(folder),
        frames=_frames(folder, cfg),
    )


def read_assets(runs: Sequence[Run], skip_unfinished: bool) -> tuple[list[Asset], list[str]]:
    """The assets of `runs`, and the reasons why others were left out.

    Raises:
        ValueError: a run cannot be evaluated and `skip_unfinished` is off, or none can.
    """
    assets, reasons = [], []
    for run in runs:
        try:
            assets.append(read_asset(run))
        except (ValueError, FileNotFoundError) as error:
            reasons.append(str(error))
    if reasons and (not skip_unfinished or not assets):
        more = f" {len(reasons) - 1} more of {len(runs)} runs" if len(reasons) > 1 else " This run"
        remedy = "." if not assets else "; --skip-unfinished evaluates the others."
        raise ValueError(f"{reasons[0]}{more} cannot be evaluated{remedy}")
    return assets, reasons


def _read_config(path: Path) -> DictConfig:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. Is {path.parents[1]} a run's folder?")
    try:
        cfg = OmegaConf.load(path)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no readable config ({type(error).__name__}).") from error
    if not OmegaConf.is_dict(cfg):
        raise ValueError(f"{path} must hold `key: value` lines at its top level.")
    return cfg


def _value(cfg: DictConfig, key: str) -> Any:
    try:
        return OmegaConf.select(cfg, key)
    except OmegaConfBaseException:  # an interpolation that only the run's own host resolves
        return None


def _frames(folder: Path, cfg: DictConfig) -> tuple[Frame, ...]:
    found, aspect = turntable(folder), None
    if found.aspect is None:  # no record of the test: then as the run was trained to be tested
        expected = _value(cfg, "data.n_test_views") or len(found.paths)
        if [path.name for path in found.paths] != [f"{index}.png" for index in range(expected)]:
            raise ValueError(
                f"{folder} holds {len(found.paths)} frames where 0.png to {expected - 1}.png "
                "belong: the test was interrupted. Test the run again."
            )
        width, height = (_value(cfg, f"data.eval_{side}") for side in ("width", "height"))
        aspect = width / height if width and height else 1.0
    frames = list(zip(found.paths, found.azimuths_deg, strict=True))
    frames = frames[:-1] if found.closes else frames
    return tuple(Frame(path, azimuth, found.aspect or aspect) for path, azimuth in frames)
