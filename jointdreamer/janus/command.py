"""`jointdreamer janus`: how many faces assets have, with the pictures that show why."""

import argparse
import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .verdict import Verdict

TABLE = "janus.csv"
HEADER = (
    *("asset", "n_faces", "faces_deg", "extents_deg", "janus", "faceless"),
    *("detector", "calibrated", "views", "source"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("assets", type=Path, nargs="+", help="runs, or folders of a turntable")
    parser.add_argument("--out", type=Path, default=Path("outputs/janus"), help="results go there")
    parser.add_argument(
        "--detector", default="tiny", help="tiny, or open_clip:MODEL/PRETRAINED for real assets"
    )
    parser.add_argument("--size", type=int, default=128, help="pixels; default: %(default)s")
    parser.add_argument("--device", help="default: a GPU if there is one")
    parser.set_defaults(run=janus)


def janus(args: argparse.Namespace) -> None:
    """Judges every asset, prints a table, and writes it and a picture of each.

    Raises:
        FileNotFoundError: an asset or the detector's weights are missing.
        ValueError: an unknown detector, or views that do not go round the asset.
    """
    from .detector import find_detector
    from .picture import draw_verdict
    from .verdict import judge
    from .views import views_of

    missing = [str(asset) for asset in args.assets if not asset.is_dir()]
    if missing:
        raise FileNotFoundError(
            f"{', '.join(missing)} is no folder. Give runs' folders, or folders of pictures."
        )
    detector = find_detector(args.detector)
    rows = []
    for asset, name in zip(args.assets, _names(args.assets), strict=True):
        views = views_of(asset, args.size, args.device)
        verdict = judge(views.frames, views.azimuths_deg, detector)
        picture = args.out / f"{name}.png"
        draw_verdict(views.frames, views.azimuths_deg, verdict, picture, asset.name)
        rows.append(_row(asset, verdict, len(views.frames), views.source))
        _write(args.out / TABLE, rows)  # at each asset: what is judged stays if a later one fails
    _print(rows, args.out)
    if not detector.calibrated:
        print(f"The detector {detector.name} is uncalibrated: look at the pictures as well.")


def _names(assets: list[Path]) -> list[str]:
    """Different names for the pictures; folders of one name get their parents' names in front."""
    paths = [asset.resolve() for asset in assets]
    depth = 1
    while True:
        names = ["-".join(path.parts[1:][-depth:]) for path in paths]
        if len(set(names)) == len(set(paths)) or depth > max(len(path.parts) for path in paths):
            return names
        depth += 1


def _row(asset: Path, verdict: "Verdict", views: int, source: str) -> dict[str, object]:
    def rounded(values: list[float]) -> str:
        return " ".join(f"{value:.0f}" for value in values)

    values = (
        *(asset, verdict.n_faces, rounded(verdict.faces_deg), rounded(verdict.extents_deg)),
        *(verdict.janus, verdict.faceless, verdict.detector, verdict.calibrated, views, source),
    )
    return dict(zip(HEADER, values, strict=True))


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, HEADER, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)


def _print(rows: list[dict[str, object]], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = HEADER[:6]
    table = Table(*shown)
    table.columns[0].overflow = "fold"
    for row in rows:
        table.add_row(*(str(row[name]) for name in shown))
    console = Console()
    console.print(table)
    janus = sum(bool(row["janus"]) for row in rows)
    faceless = sum(bool(row["faceless"]) for row in rows)
    console.print(f"Janus {janus} of {len(rows)}, faceless {faceless}. Pictures in {out}")
