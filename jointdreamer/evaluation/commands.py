"""The commands that look at finished runs: `evaluate`, `curves` and `compare`."""

import argparse
from pathlib import Path

from . import TINY_CLIP


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.description = "Measure tested runs; write assets.csv, methods.csv and report.html."
    parser.epilog = (
        "Interrupted, it goes on where it was. docs/evaluate.md says what the numbers mean."
    )
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN", help="or a folder of runs")
    text = "what R-Precision chooses from, JSON or text; default: the runs' own prompts"
    add("--prompts", type=Path, metavar="FILE", help=text)
    text = "a folder, hub name, or such as open_clip:ViT-B-32/openai; default: %(default)s"
    add("--clip", default=TINY_CLIP, metavar="NAME", help=text)
    text = "pictures to compare the renders with"
    add("--fid-reference", type=Path, metavar="FOLDER", help=text)
    text = "auto (inception if it is here, else clip), clip, inception or inception:FILE"
    add("--fid-features", default="auto", metavar="WHAT", help=text)
    text = "auto (tiny beside the tiny CLIP), tiny, open_clip:MODEL/PRETRAINED or off"
    add("--janus", default="auto", metavar="WHAT", help=text)
    text = "judge Janus on renders of the checkpoint, as `jointdreamer janus`; slower"
    add("--render-faces", action="store_true", help=text)
    add("--views", type=int, help="frames of a turntable to look at; default: all")
    add("--device", choices=("cuda", "cpu"), help="default: the GPU if there is one")
    add("--skip-unfinished", action="store_true", help="leave out untested runs")
    add("--out", type=Path, default=Path("outputs/evaluation"), help="default: %(default)s")
    parser.set_defaults(run=evaluate)


def evaluate(args: argparse.Namespace) -> None:
    """Reads the runs, measures them, writes the tables and the report, and prints them.

    Raises:
        FileNotFoundError, ValueError: what the command line names is missing or does not fit.
    """
    from .measure import measure_runs
    from .report import print_methods, write_report, write_tables

    result = measure_runs(
        args.runs,
        args.out / "features",
        prompts=args.prompts,
        clip_name=args.clip,
        fid_reference=args.fid_reference,
        fid_features=args.fid_features,
        janus=args.janus,
        render_faces=args.render_faces,
        views=args.views,
        device_name=args.device,
        skip_unfinished=args.skip_unfinished,
    )
    written = [*write_tables(args.out, result), args.out / "report.html"]
    write_report(written[-1], result)
    print_methods(result)
    print(*written, sep="\n")


def add_curves(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="RUN", type=Path, help="a run's folder")
    parser.add_argument("--out", type=Path, help="default: curves.png in the run's folder")
    parser.set_defaults(run=curves)


def curves(args: argparse.Namespace) -> None:
    from ..runs import Run
    from .curves import draw_curves

    path = args.out or args.folder / "curves.png"
    draw_curves(Run(args.folder), path)
    print(path)


def add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", help="folders of tested runs")
    parser.add_argument("--labels", nargs="+", help="one for each run; default: folder names")
    parser.add_argument("--out", type=Path, required=True, help="the picture to write")
    parser.set_defaults(run=compare)


def compare(args: argparse.Namespace) -> None:
    from ..runs import Run
    from .contact_sheet import compare_runs

    print(compare_runs([Run(folder) for folder in args.runs], args.out, args.labels))
