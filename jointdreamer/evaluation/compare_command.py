"""`jointdreamer compare`."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", help="folders of tested runs")
    parser.add_argument("--labels", nargs="+", help="one for each run; default: folder names")
    parser.add_argument("--out", type=Path, required=True, help="the picture to write")
    parser.set_defaults(run=compare)


def compare(args: argparse.Namespace) -> None:
    from .contact_sheet import compare_runs
    from ..runs import Run

    print(compare_runs([Run(folder) for folder in args.runs], args.out, args.labels))
