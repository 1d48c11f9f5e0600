"""Where a finished run keeps what: logs, renders, meshes; and how its turntable is read."""

import csv
import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

CONFIG, CHECKPOINT = Path("configs/parsed.yaml"), Path("ckpts/last.ckpt")
RECORD = "record.json"  # in a folder of renders or of a mesh: how it was made
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

Series = list[tuple[int, float]]


@dataclass(frozen=True)
class Run:
    """A run's folder (`trial_dir`), as threestudio lays it out."""

    folder: Path

    def newest(self, pattern: str) -> Path:
        """The file in `save/` that fits `it{step}-<pattern>` at the highest step.

        Raises:
            FileNotFoundError: none does.
        """
        found = list((self.folder / "save").glob(f"it*-{pattern}"))
        if not found:
            raise FileNotFoundError(
                f"{self.folder}/save has no it<step>-{pattern}. Has this run been tested and "
                "exported?"
            )
        return max(found, key=self.step_of)

    def step_of(self, path: Path) -> int:
        """The training step in the name of something in `save/`; -1 if there is none."""
        name = path.relative_to(self.folder / "save").parts[0]
        match = re.match(r"it(\d+)-", name)
        return int(match.group(1)) if match else -1

    def metrics(self) -> dict[str, Series]:
        """What was logged, by name, as (step, value) in order of steps.

        A resumed run has several logs; where they overlap the later one stands.

        Raises:
            FileNotFoundError: there are no logs.
        """
        logs = sorted(
            (self.folder / "csv_logs").glob("version_*/metrics.csv"),
            key=lambda path: int(path.parent.name.removeprefix("version_")),
        )
        if not logs:
            raise FileNotFoundError(
                f"{self.folder}/csv_logs has no version_*/metrics.csv. Is this a run's folder?"
            )
        values: dict[str, dict[int, float]] = defaultdict(dict)
        for log in logs:
            with open(log, newline="") as file:
                for row in csv.DictReader(file):
                    for name, text in row.items():
                        if text and name != "step":
                            values[name][int(row["step"])] = float(text)
        return {name: sorted(series.items()) for name, series in values.items()}


@dataclass(frozen=True)
class Turntable:
    """Views all round.

    Attributes:
        aspect: width by height of the render, the left part of each picture; None if unknown.
    """

    paths: list[Path]
    azimuths_deg: list[float]
    aspect: float | None = None

    @property
    def closes(self) -> bool:
        """Whether the last view is the first again."""
        return len(self.paths) > 1 and (self.azimuths_deg[-1] - self.azimuths_deg[0]) % 360 == 0


def turntable(folder: Path) -> Turntable:
    """A folder's pictures in the order of the numbers in their names.

    Where they were rendered from is what the folder's record says. Without one they are taken for
    threestudio's turntable: evenly spaced, the last at 360 degrees as the first is at 0.

    Raises:
        FileNotFoundError: the folder holds no pictures.
        ValueError: they are not those of the record.
    """
    found = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES]
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no {', '.join(PICTURES)}. Give a run's folder or a turntable's."
        )
    found.sort(key=lambda path: (int(path.stem) if path.stem.isdecimal() else -1, path.name))
    if not (folder / RECORD).is_file():
        return Turntable(found, np.linspace(0.0, 360.0, len(found)).tolist())
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    azimuths = record["azimuth_deg"]
    if len(azimuths) != len(found):
        raise ValueError(
            f"{folder} holds {len(found)} frames, but {RECORD} tells of {len(azimuths)}. "
            "Test the run again."
        )
    return Turntable(found, azimuths, record["width"] / record["height"])


def read_picture(path: Path, aspect: float | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """A picture as rgb.

    Args:
        aspect: width by height of the render, which is the left part of a frame that may show
            normals and opacity too; None for the whole picture.

    Raises:
        ValueError: it does not open.
    """
    try:
        with Image.open(path) as picture:
            width = round(picture.height * aspect) if aspect else picture.width
            return np.asarray(picture.convert("RGB"))[:, :width]
    except OSError as error:
        raise ValueError(f"{path} is no readable picture. Remove it, or make it again.") from error
