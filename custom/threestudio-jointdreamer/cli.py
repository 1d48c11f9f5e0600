"""The `jointdreamer` command: reads the command line and calls what it names.

The extension does not know its host, so whoever calls `main` hands in the function that runs a
config (`run(argv) -> {"trial_dir": ...}`, with threestudio's command line).
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from . import convert, demo, doctor, download, install
from .demo import RunConfig
from .evaluation import evaluate
from .evaluation.sweeps import command as sweep
from .training import command as train_classifier


def main(argv: Sequence[str] | None = None, run: RunConfig | None = None) -> int:
    """Runs one command.

    Args:
        argv: the command line without the program's name.
        run: trains, tests or exports a config; needed by `demo` only.

    Returns:
        The exit status: 0, or 2 after a mistake of the user, told in one line.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser, verbose = _parser(argv), "--verbose" in argv
    args, overrides = parser.parse_known_args(argv)
    if not getattr(args, "takes_overrides", False):
        stray = overrides
    else:
        stray = [item for item in overrides if "=" not in item or item.startswith("-")]
    if stray:
        parser.error(f"unrecognized arguments: {' '.join(stray)}")
    args.overrides, args.run_config = overrides, run
    try:
        return args.handler(args) or 0
    except (ValueError, OSError) as error:
        if verbose:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser(argv: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jointdreamer", description="Text-to-3D by Joint Score Distillation."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo.add_arguments(commands)
    convert.add_arguments(commands)
    download.add_arguments(commands)
    doctor.add_arguments(commands)
    install.add_arguments(commands)
    evaluate.add_arguments(commands)
    sweep.add_arguments(commands)
    train_classifier.add_arguments(commands)
    _add_curves(commands)
    _add_compare(commands)
    _add_janus(commands)
    if "tinyworld" in argv[:1]:  # its modules are loaded only where they are wanted
        from .tinyworld.commands import add_arguments

        add_arguments(commands)
    else:
        commands.add_parser("tinyworld", help="the procedural creatures and their tiny priors")
    return parser


def _add_command(
    commands: argparse._SubParsersAction, name: str, text: str, handler: Callable
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(handler=handler)
    parser.add_argument("--verbose", action="store_true", help="show tracebacks")
    return parser


def _add_curves(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(commands, "curves", "Draw a run's logs as curves.png.", _curves)
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--out", type=Path, help="default: curves.png in the run's folder")


def _curves(args: argparse.Namespace) -> None:
    from .evaluation.curves import draw_curves
    from .evaluation.runs import Run

    print(draw_curves(Run(args.run), args.out or args.run / "curves.png"))


def _add_compare(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(
        commands, "compare", "Put the turntables of several runs in one picture.", _compare
    )
    parser.add_argument("runs", type=Path, nargs="+", help="folders of tested runs")
    parser.add_argument("--labels", nargs="+", help="one for each run; default: folder names")
    parser.add_argument("--out", type=Path, required=True, help="the picture to write")


def _compare(args: argparse.Namespace) -> None:
    from .evaluation.contact_sheet import compare_runs
    from .evaluation.runs import Run

    print(compare_runs([Run(folder) for folder in args.runs], args.out, args.labels))


def _add_janus(commands: argparse._SubParsersAction) -> None:
    text = "Count the faces of assets all round, with pictures that show why."
    parser = _add_command(commands, "janus", text, _janus)
    parser.add_argument("assets", type=Path, nargs="+", help="runs, or folders of a turntable")
    parser.add_argument("--out", type=Path, default=Path("outputs/janus"), help="results go there")
    parser.add_argument(
        "--detector", default="tiny", help="tiny, or open_clip:MODEL/PRETRAINED for real assets"
    )
    parser.add_argument("--size", type=int, default=128, help="pixels; default: %(default)s")
    parser.add_argument("--device", help="default: a GPU if there is one")


def _janus(args: argparse.Namespace) -> None:
    from .evaluation.janus.command import run

    run(args)
