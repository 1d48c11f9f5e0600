"""`jointdreamer evaluate`: CLIP score, R-Precision, FID, Janus and smoothness of tested runs."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line starts without it
    from .measure import Evaluation

TABLE, SUMMARY, REPORT, FEATURES = "assets.csv", "methods.csv", "report.html", "features"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Measure tested runs; write assets.csv, methods.csv and report.html."
    parser.epilog = (
        "Interrupted, it goes on where it was. docs/evaluate.md says what the numbers mean."
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="or a folder of runs")
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="what R-Precision chooses from, JSON or text; default: the runs' own prompts",
    )
    parser.add_argument(
        "--clip",
        default="load/tiny/clip",
        metavar="NAME",
        help="a folder, hub name, or such as open_clip:ViT-B-32/openai; default: %(default)s",
    )
    parser.add_argument(
        "--fid-reference", type=Path, metavar="FOLDER", help="pictures to compare the renders with"
    )
    parser.add_argument(
        "--fid-features",
        default="auto",
        metavar="WHAT",
        help="auto (inception if it is here, else clip), clip, inception or inception:FILE",
    )
    parser.add_argument(
        "--janus",
        default="auto",
        metavar="WHAT",
        help="auto (tiny beside the tiny CLIP), tiny, open_clip:MODEL/PRETRAINED or off",
    )
    parser.add_argument(
        "--render-faces",
        action="store_true",
        help="judge Janus on renders of the checkpoint, as `jointdreamer janus`; slower",
    )
    parser.add_argument("--views", type=int, help="frames of a turntable to look at; default: all")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), help="default: the GPU if there is one"
    )
    parser.add_argument("--skip-unfinished", action="store_true", help="leave out untested runs")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/evaluation"), help="default: %(default)s"
    )
    parser.set_defaults(run=evaluate)


def evaluate(args: argparse.Namespace) -> None:
    """Reads the runs, measures them, writes the tables and the report, and prints them.

    Raises:
        FileNotFoundError, ValueError: what the command line names is missing or does not fit.
    """
    from .report import write_report

    result = measure_runs(
        args.runs,
        args.out / FEATURES,
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
    write_tables(args.out, result)
    write_report(args.out / REPORT, result)
    show(result)
    for name in (TABLE, SUMMARY, REPORT):
        print(args.out / name)


def write_tables(out: Path, result: "Evaluation") -> None:
    """A row for each asset and a row for each method, as CSV."""
    from .rows import write_table

    write_table(out / TABLE, result.rows)
    write_table(out / SUMMARY, result.methods)


def measure_runs(
    runs: Sequence[Path],
    features: Path,
    prompts: Path | None = None,
    clip_name: str = "load/tiny/clip",
    fid_reference: Path | None = None,
    fid_features: str = "auto",
    janus: str = "auto",
    render_faces: bool = False,
    views: int | None = None,
    device_name: str | None = None,
    skip_unfinished: bool = False,
) -> "Evaluation":
    """What the command measures, with its options.

    Args:
        features: a folder that keeps what was computed of pictures.
    """
    import torch

    from .assets import find_runs, read_assets
    from .clip_models import load_clip
    from .feature_store import FeatureStore
    from .fid import find_extractor, reference_pictures
    from .measure import Evaluation, measure_assets, measure_fids
    from .r_precision import distinct, read_prompts
    from .rows import by_method
    from .verdicts import choose_detector, described, judge_assets

    if views is not None and views < 1:
        raise ValueError(f"--views {views} must be 1 or more.")
    detector = choose_detector(janus, clip_name)
    references = reference_pictures(fid_reference) if fid_reference else []
    given = read_prompts(prompts) if prompts else None
    assets, skipped = read_assets(find_runs(runs), skip_unfinished)
    candidates = given or distinct(asset.prompt for asset in assets)

    if device_name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch sees no GPU. Use --device cpu.")
    device = torch.device(device_name or ("cuda" if torch.cuda.is_available() else "cpu"))
    clip = load_clip(clip_name, device)
    extractor = find_extractor(fid_features, clip, device) if references else None
    store = FeatureStore(features)
    verdicts = None
    if detector:
        verdicts = judge_assets(assets, detector, store, render_faces, device_name)
    rows = measure_assets(assets, clip, candidates, store, views, verdicts)
    fids = measure_fids(assets, references, extractor, store, views) if extractor else {}
    source = f"among {len(candidates)} prompts of {prompts or 'these runs'}"
    settings = {
        "CLIP": clip.name,
        "R-Precision": source if len(candidates) > 1 else "among other prompts only, see --prompts",
        "Janus detector": described(detector),
        "FID": f"{extractor.name} against {fid_reference}" if extractor else "none",
    }
    return Evaluation(assets, rows, by_method(rows, fids), settings, skipped)


def show(result: "Evaluation") -> None:
    """Prints the methods' table."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from .report import METHOD_COLUMNS, shown

    caption = "; ".join(f"{key}: {value}" for key, value in result.settings.items())
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption)
    for column in METHOD_COLUMNS:
        table.add_column(
            column.title,
            justify="left" if column.is_text else "right",
            min_width=max(map(len, column.title.split())),
        )
    for row in result.methods:
        table.add_row(*(shown(row, column, gap="\n") for column in METHOD_COLUMNS))
    console = Console()
    console.print(table, markup=False)
    for reason in result.skipped:
        console.print(f"left out: {reason}", markup=False, highlight=False)
