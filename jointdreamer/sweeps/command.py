"""`jointdreamer sweep`: its options, and what it prints."""

import argparse
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

INTERRUPTED = 130  # as a shell reports Ctrl-C


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Run prompts x methods x seeds; started again, it does what is left."
    parser.epilog = (
        "Further KEY=VALUE arguments change the config of every run, such as "
        "trainer.max_steps=200. See configs/sweeps/demo8.yaml for the file."
    )
    parser.add_argument("sweep", metavar="SWEEP.yaml", type=Path, help="what to run")
    parser.add_argument("--jobs", type=int, help="runs at a time; default: the file's, else 1")
    parser.add_argument(
        "--together",
        type=int,
        metavar="N",
        help="up to N runs of a method in each process, which share the calls of jsd-guidance: "
        "many small runs on a GPU are done sooner; default: 1",
    )
    parser.add_argument(
        "--backend",
        choices=("threading", "loky", "ray"),
        default="threading",
        help="joblib's: this machine, or Ray's cluster (RAY_ADDRESS); default: %(default)s",
    )
    parser.add_argument("--out", type=Path, help="default: the file's, else outputs/<its name>")
    parser.add_argument("--prompts", type=Path, help="a JSON list in place of the file's prompts")
    parser.add_argument("--methods", help="only these of the file, such as jsd,sds")
    parser.add_argument("--seeds", help="in place of the file's, such as 0,1")
    parser.add_argument("--steps", type=int, help="trainer.max_steps of every run")
    parser.add_argument("--fresh", action="store_true", help="start all of these runs over")
    parser.add_argument("--dry-run", action="store_true", help="show the runs, start none")
    parser.set_defaults(run=sweep, takes_overrides=True)


def sweep(args: argparse.Namespace) -> int:
    """Runs what is left of a sweep.

    Returns:
        The exit status: 0 if all its runs are done, 1 if not, 130 after Ctrl-C.

    Raises:
        ValueError: the file, an option or an override is wrong, or other runs are in the folder.
        FileNotFoundError: the file, a config or the prompts do not exist.
    """
    from rich.console import Console

    from ..host.launcher import run
    from .conducting import check_settings, conduct
    from .machinery import Machinery, visible_gpus
    from .plan import check_positive
    from .records import Record, table_of_methods, table_of_runs

    console = Console()
    planned = _planned(args)
    runs = planned.runs()
    if args.dry_run:
        console.print(table_of_runs([Record.of(run) for run in runs]))
        for run in runs:
            console.out(shlex.join(["python", "launch.py", *run.arguments()]), highlight=False)
        if not args.fresh:
            check_settings(runs)
        return 0
    gpus = visible_gpus()
    jobs = check_positive(args.jobs, "--jobs") or planned.jobs or 1
    together = check_positive(args.together, "--together") or 1
    machinery = Machinery(run, jobs, args.backend, gpus, together)
    if args.fresh:
        remove_runs(runs)
    finished = conduct(runs, machinery, console)
    records = [Record.of(run) for run in runs]
    console.print(table_of_runs(records), "", table_of_methods(records), "", sep="\n")
    console.print(f"{planned.out / 'runs.csv'}", soft_wrap=True, highlight=False)
    if not finished:
        return INTERRUPTED
    return 0 if all(record.done for record in records) else 1


def _planned(args: argparse.Namespace):
    """The sweep's file with what the command line changes in it."""
    from .plan import check_positive, check_seeds, read_prompts, read_sweep

    planned = replace(read_sweep(args.sweep), last_overrides=tuple(args.overrides))
    if args.out is not None:
        planned = replace(planned, out=args.out.resolve())
    if args.prompts is not None:
        planned = replace(planned, prompts=read_prompts(args.prompts, "--prompts"))
    if args.methods is not None:
        planned = planned.choose(args.methods.split(","))
    if args.seeds is not None:
        seeds = [int(s) if s.isdecimal() else s for s in args.seeds.split(",")]
        planned = replace(planned, seeds=check_seeds(seeds, "--seeds"))
    if args.steps is not None:
        planned = replace(planned, steps=check_positive(args.steps, "--steps"))
    return planned


def remove_runs(runs: Sequence) -> None:
    """Removes the folders of runs that no process is at."""
    from .records import is_locked

    for run in runs:
        if is_locked(run):
            raise ValueError(f"--fresh: a process is at {run.folder}; end that sweep first.")
    for run in runs:
        if run.folder.exists():
            shutil.rmtree(run.folder)
