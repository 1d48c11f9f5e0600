"""`jointdreamer sweep`: its options, and what it prints."""

import argparse
import shlex
from pathlib import Path

INTERRUPTED = 130  # as a shell reports Ctrl-C


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Run prompts x methods x seeds; started again, it does what is left."
    parser.epilog = (
        "Further KEY=VALUE arguments change the config of every run, such as "
        "trainer.max_steps=200. See configs/sweeps/demo8.yaml for the file."
    )
    parser.add_argument("sweep", metavar="SWEEP.yaml", type=Path, help="what to run")
    parser.add_argument("--jobs", type=int, help="processes at a time; default: the file's, else 1")
    parser.add_argument(
        "--together",
        type=int,
        default=1,
        metavar="N",
        help="runs of one method in each process, at most; jsd-guidance is then called for all at "
        "once; default: %(default)s",
    )
    parser.add_argument(
        "--backend",
        choices=("threading", "ray"),
        default="threading",
        help="joblib's: this machine, or Ray's cluster (RAY_ADDRESS); default: %(default)s",
    )
    parser.add_argument("--out", help="default: the file's, else outputs/<its name>")
    parser.add_argument("--prompts", help="a JSON list or text, in place of the file's")
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

    from . import plan, run
    from .records import Record, table_of_methods, table_of_runs

    if args.together < 1:
        raise ValueError(f"--together={args.together} must be a whole number from 1.")
    console, methods, seeds = Console(), args.methods, args.seeds
    planned = plan.read_sweep(
        args.sweep,
        methods and methods.split(","),
        args.overrides,
        seeds=seeds and seeds.split(","),
        **{key: getattr(args, key) for key in ("prompts", "steps", "jobs", "out")},
    )
    runs = planned.runs()
    if args.dry_run:
        console.print(table_of_runs([Record.of(one) for one in runs]))
        for one in runs:
            command = ["python", "launch.py", *one.arguments()]
            console.out(shlex.join(command), highlight=False)
        if not args.fresh:
            run.check_settings(runs)
        return 0
    if args.fresh:
        run.remove_runs(runs)
    workers = run.Workers(
        run.LAUNCHER, planned.jobs or 1, args.backend, run.visible_gpus(), args.together
    )
    finished = run.run_sweep(runs, workers, console)
    records = [Record.of(one) for one in runs]
    console.print(table_of_runs(records), "", table_of_methods(records), "", sep="\n")
    console.print(f"{planned.out / 'runs.csv'}", soft_wrap=True, highlight=False)
    if not finished:
        return INTERRUPTED
    return 0 if all(record.done for record in records) else 1
