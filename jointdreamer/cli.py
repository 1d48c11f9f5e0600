"""The `jointdreamer` command: reads the command line and calls the command's own module."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from .host import errors, selection
from .host.allocator import set_allocator_default
from .host.threads import set_thread_defaults

# For each the module and its help. The module's `add_arguments(parser)`, or the function named
# after a colon, also sets `run`.
COMMANDS = {
    "demo": ("demo", "turn a prompt into a 3D asset"),
    "convert": ("convert", "write a published model as a clean folder of safetensors"),
    "download": ("download", "fetch every weight that a config needs"),
    "doctor": ("doctor", "check the installation, and what a config needs"),
    "install": ("install", "link all of this into a checkout of threestudio"),
    "sweep": ("sweeps.command", "run prompts x methods x seeds"),
    "evaluate": ("evaluation.commands:add_evaluate", "measure finished runs, and write a report"),
    "view": ("view", "look at a finished run from any side, in the browser"),
    "curves": ("evaluation.commands:add_curves", "draw a run's logs as curves.png"),
    "page": ("page", "write a run's index.html: the model, the film, the numbers"),
    "compare": ("evaluation.commands:add_compare", "put the turntables of runs in one picture"),
    "janus": ("janus.command", "count the faces of assets all round"),
    "train-classifier": ("pair_training.command", "train the pair classifier"),
    "tinyworld": ("tinyworld.commands", "the procedural creatures and their tiny priors"),
}
MENDING = ("doctor", "install")  # commands that help where threestudio cannot be imported


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the command line without the program's name.

    Returns:
        The exit status: 0, what the command says, or 2 after one line `error: ...` about something
        that the user can mend.
    """
    args = parse_arguments(list(sys.argv[1:] if argv is None else argv))
    set_thread_defaults()
    set_allocator_default()
    with errors.reported(args.verbose) as outcome:
        selection.ensure_host()
        if args.command in MENDING:
            selection.use_stand_in_if_broken()
        selection.load_extension()
        outcome.code = args.run(args) or 0
    return outcome.code


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Only the named command's module is imported, and neither torch nor a host.

    A module's parser may say `takes_overrides=True` by `set_defaults`: `args.overrides` are then
    the further `key=value` arguments.
    """
    parser = argparse.ArgumentParser(
        prog="jointdreamer", description="Text-to-3D by Joint Score Distillation."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.add_argument("--verbose", action="store_true", help="show tracebacks")
        if name in argv[:1]:
            module, _, function = module.partition(":")
            found = import_module(f".{module}", __package__)
            getattr(found, function or "add_arguments")(command)
    args, overrides = parser.parse_known_args(argv)
    args.overrides = stray = overrides
    if getattr(args, "takes_overrides", False):
        stray = [item for item in stray if "=" not in item or item.startswith("-")]
    if stray:
        parser.error(f"unrecognized arguments: {' '.join(stray)}")
    return args


if __name__ == "__main__":
    sys.exit(main())
