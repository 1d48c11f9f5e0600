"""`jointdreamer janus`: how many faces assets have, with the plots that show why."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

TABLE = "janus.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("assets", type=Path, nargs="+", help="runs, or folders of a turntable")
    parser.add_argument("--out", type=Path, default=Path("outputs/janus"), help="results go there")
    parser.add_argument(
        "--detector", default="tiny", help="tiny, or open_clip:MODEL/PRETRAINED for real assets"
    )
    parser.add_argument("--scene", action="store_true", help="each of a scene's two creatures")
    parser.add_argument("--size", type=int, default=128, help="pixels; default: %(default)s")
    parser.add_argument("--device", help="default: a GPU if there is one")
    parser.set_defaults(run=janus)


def janus(args: argparse.Namespace) -> None:
    """Judges every asset, says what it found, and writes a table and a plot of each.

    Raises:
        FileNotFoundError: an asset or the detector's weights are missing.
        ValueError: an unknown detector, or views that do not go round the asset.
    """
    from ..csv_table import write_csv
    from . import draw_verdict, find_detector, judge

    missing = [str(asset) for asset in args.assets if not asset.is_dir()]
    if missing:
        raise FileNotFoundError(
            f"{', '.join(missing)} is no folder. Give runs' folders, or folders of pictures."
        )
    detector = find_detector(args.detector)
    rows = []
    for asset, name, views in _looks(args):
        verdict = judge(views.frames, views.azimuths_deg, detector)
        print(f"{asset}: {verdict.in_words()}", flush=True)
        plot = args.out / f"{name}.png"
        draw_verdict(views.frames, views.azimuths_deg, verdict, plot, asset.name)
        row = {
            "asset": asset,
            "n_faces": verdict.n_faces,
            "faces_deg": " ".join(f"{azimuth:.0f}" for azimuth in verdict.faces_deg),
            "extents_deg": " ".join(f"{extent:.0f}" for extent in verdict.extents_deg),
            "janus": verdict.janus,
            "faceless": verdict.faceless,
            "detector": verdict.detector,
            "calibrated": verdict.calibrated,
            "views": len(views.frames),
            "source": views.source,
        }
        rows.append(row)
        write_csv(args.out / TABLE, rows)  # at each asset: it stays if a later one fails
    n_janus, n_faceless = (sum(row[name] for row in rows) for name in ("janus", "faceless"))
    print(f"Janus {n_janus} of {len(rows)}, faceless {n_faceless}. Pictures in {args.out}")
    if not detector.calibrated:
        print(f"The detector {detector.name} is uncalibrated: look at the plots as well.")


def _looks(args: argparse.Namespace) -> Iterator[tuple[Path, str, Any]]:
    """The views of every asset, or of every creature of each, and a name for the plot."""
    from . import creatures_of, views_of

    for asset, name in zip(args.assets, _distinct_names(args.assets), strict=True):
        if args.scene:
            for creature, views in creatures_of(asset, args.size, args.device).items():
                yield asset / creature, f"{name}-{creature}", views
        else:
            yield asset, name, views_of(asset, args.size, args.device)


def _distinct_names(assets: Sequence[Path]) -> list[str]:
    """Names for the plots; folders of one name get their parents' names in front."""
    paths = [asset.resolve() for asset in assets]
    depths = range(1, 1 + max(len(path.parts) for path in paths))
    choices = (["-".join(path.parts[1:][-depth:]) for path in paths] for depth in depths)
    return next(names for names in choices if len(set(names)) == len(set(paths)))
