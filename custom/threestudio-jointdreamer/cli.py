"""The `jointdreamer` command: reads the command line and calls what it names.

The extension does not know its host, so whoever calls `main` hands in the function that runs a
config (`run(argv) -> {"trial_dir": ...}`, with threestudio's command line).
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from . import convert, demo, doctor, download
from .demo import RunConfig


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
    _add_curves(commands)
    _add_compare(commands)
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
