"""`jointdreamer curves`."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="RUN", type=Path, help="a run's folder")
    parser.add_argument("--out", type=Path, help="default: curves.png in the run's folder")
    parser.set_defaults(run=curves)


def curves(args: argparse.Namespace) -> None:
    from .curves import draw_curves
    from ..runs import Run

    print(draw_curves(Run(args.folder), args.out or args.folder / "curves.png"))
