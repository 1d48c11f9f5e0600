"""Janus rates and text congruence of all methods in the tiny world, in two tables and a page.

python benchmarks/benchmark.py                     # a GPU: all of it
python benchmarks/benchmark.py --quick             # two CPU cores: fewer, shorter runs
python benchmarks/benchmark.py --methods sds,jsd-multiview --prompts 4 --seeds 0
python benchmarks/benchmark.py --timing            # only what a step of each method takes

Runs configs/sweeps/benchmark.yaml, looks at every asset, and writes janus.csv, ablation.csv,
tables.md and report.html into --out; with --publish also docs/benchmark.md and docs/results/.
Started again, it does what is left. docs/benchmark.md says what the columns mean.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.baselines import PROGRAM, PROGRAM_TOGETHER, register  # noqa: E402

register()

from rich.console import Console  # noqa: E402
from threestudio_jointdreamer.files import replacing  # noqa: E402

from benchmarks.janus_benchmark import publishing, references, tables, timing  # noqa: E402
from benchmarks.janus_benchmark.faces import judge_faces  # noqa: E402
from benchmarks.janus_benchmark.schedules import shortened  # noqa: E402
from benchmarks.measure import positive  # noqa: E402
from jointdreamer.csv_table import write_csv  # noqa: E402
from jointdreamer.evaluation.measure import Evaluation, measure_runs  # noqa: E402
from jointdreamer.evaluation.report import write_report, write_tables  # noqa: E402
from jointdreamer.host import errors  # noqa: E402
from jointdreamer.paths import find_file  # noqa: E402
from jointdreamer.sweeps import run as sweep_runs  # noqa: E402
from jointdreamer.sweeps.plan import PlannedRun, Sweep, read_sweep  # noqa: E402
from jointdreamer.sweeps.records import Record, table_of_methods, table_of_runs  # noqa: E402
from jointdreamer.sweeps.run import Workers, run_sweep, visible_gpus  # noqa: E402

INTERRUPTED = 130
QUICK_PROMPTS, QUICK_STEPS = 2, 480
QUICK_BATCH = "data.batch_size=${data.n_view}"  # the views of one object a step
TIMED_STEPS = 40  # of the runs that are timed, each alone on the machine
TOGETHER, PER_GPU = 16, 16  # runs in a process and processes on a GPU, at most
PROCESS_GIB = 4.75  # of GPU memory that such a process takes
PAGE, RESULTS = ROOT / "docs" / "benchmark.md", ROOT / "docs" / "results"
PICTURE = ROOT / "docs" / "sds-vs-jsd.png"  # the README's first


@dataclass(frozen=True)
class Plan:
    """What is run, and how."""

    sweep: Sweep
    workers: Workers
    setting: str  # in words, for the tables

    @property
    def timing(self) -> Sweep:
        """Runs that are timed one by one: where runs share a process or a GPU, they cannot tell.

        One of each method for each seed, in turn, so that no method has the machine's best minute.
        """
        short = shortened(self.sweep, TIMED_STEPS)
        methods = tuple(method for method in short.methods if method.name in tables.MAIN)
        prompts, out = self.sweep.prompts[:1], self.sweep.out / "timing"
        return replace(short, methods=methods, prompts=prompts, out=out)


def planned(args: argparse.Namespace) -> Plan:
    """
    Raises:
        ValueError, FileNotFoundError: the sweep's file or an option is wrong.
    """
    find_file(args.candidates, "--candidates")
    methods, seeds = (value and value.split(",") for value in (args.methods, args.seeds))
    sweep = read_sweep(args.sweep, methods, args.overrides, seeds=seeds)
    steps, count = args.steps, args.prompts
    if args.quick:
        steps, count = steps or QUICK_STEPS, count or QUICK_PROMPTS
        overrides = (*sweep.overrides, QUICK_BATCH)
        sweep = replace(sweep, seeds=sweep.seeds[: None if seeds else 1], overrides=overrides)
    out = args.out or sweep.out.with_name(sweep.out.name + "-quick" * args.quick)
    sweep = replace(sweep, prompts=publishing.spread(sweep.prompts, count), out=out.resolve())
    sweep = shortened(sweep, steps) if steps else sweep
    setting = f"prompts: {len(sweep.prompts)}, seeds: {len(sweep.seeds)}"
    setting = f"{'Quick: ' * args.quick}{setting}{f', steps: {steps}' if steps else ''}"
    gpus = visible_gpus()
    jobs = args.jobs or jobs_at_once(len(gpus), os.cpu_count() or 1)
    together = args.together or (TOGETHER if gpus else 1)
    workers = Workers(PROGRAM, jobs, "threading", gpus, together, PROGRAM_TOGETHER)
    return Plan(sweep, workers, setting)


def jobs_at_once(gpus: int, cores: int) -> int:
    """One a core, on GPUs no more than their memory has room for."""
    import torch

    gpus = min(gpus, torch.cuda.device_count())
    if not gpus:
        return cores
    memory = [torch.cuda.get_device_properties(index).total_memory for index in range(gpus)]
    on_each = min(PER_GPU, int(min(memory) / 2**30 / PROCESS_GIB))  # GPUs are used in turn
    return max(1, min(cores, gpus * on_each))


def evaluated(
    plan: Plan, records: Sequence[Record], candidates: Path, device: str | None
) -> Evaluation:
    """Everything that is measured of the finished runs; the others are listed as left out."""
    features = plan.sweep.out / "features"
    folders = [record.run.folder for record in records if record.done]
    judge_faces(folders, features, min(plan.workers.jobs, os.cpu_count() or 1), device)
    true = plan.sweep.out / "true-creatures"
    result = measure_runs(
        folders,
        features,
        prompts=candidates,
        fid_reference=references.make_references(true, plan.sweep.prompts, device),
        fid_features="clip",
        janus="tiny",
        render_faces=True,
        device_name=device,
    )
    settings = {
        "runs": plan.setting,
        **result.settings,
        "R-Precision": f"among the prompts of {candidates.name}",
        "FID": "features of this CLIP, against true creatures of the prompts",
    }
    left_out = [record.line for record in records if not record.done]
    return replace(result, settings=settings, skipped=[*result.skipped, *left_out])


def write_results(
    plan: Plan, records: Sequence[Record], result: Evaluation, timed: Sequence[Record]
) -> str:
    """Writes tables and page; returns the tables as Markdown."""
    failed = Counter(record.run.method.name for record in records if not record.done)
    names = {method.name for method in plan.sweep.methods}
    spent, out = tables.costs(timed or records), plan.sweep.out
    if rows := tables.timing_rows(timed or records):
        write_csv(out / "timing.csv", rows)
    janus = tables.janus_rows(result, spent, failed, names)
    shown, text = [], f"{plan.setting}.\n\n"
    for name, title, rows, columns in (
        ("janus", "Janus rate and text congruence", janus, tables.JANUS_COLUMNS),
        ("ablation", "Ablation", tables.ablation_rows(result, failed), tables.ABLATION_COLUMNS),
    ):
        if rows:
            write_csv(out / f"{name}.csv", [{**row, "setting": plan.setting} for row in rows])
            shown.append(tables.as_table(title, rows, columns))
            text += f"**{title}**\n\n{tables.as_markdown(shown[-1])}\n"
    write_tables(out, result)
    write_report(out / "report.html", result, "JointDreamer in miniature", shown)
    with replacing(out / "tables.md") as new:
        new.write_text(text, encoding="utf-8")
    return text


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="Further KEY=VALUE arguments change the config of every run.",
    )
    parser.add_argument("--quick", action="store_true", help="two CPU cores, within 30 minutes")
    parser.add_argument("--methods", help="only these, such as sds,jsd-multiview")
    parser.add_argument("--prompts", type=positive, metavar="N", help="only so many of the prompts")
    parser.add_argument("--seeds", help="in place of the sweep's, such as 0,1")
    parser.add_argument("--steps", type=positive, help="of every run; schedules are scaled")
    parser.add_argument(
        "--jobs", type=positive, help="processes at a time; default: one a core, if GPUs have room"
    )
    parser.add_argument(
        "--together", type=positive, metavar="N", help="runs in each, at most; default: 16 on a GPU"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), help="where to look at assets")
    parser.add_argument("--out", type=Path, help="default: outputs/benchmark[-quick]")
    parser.add_argument("--fresh", action="store_true", help="start all of these runs over")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--timing", action="store_true", help="only time each method's step, one run after another"
    )
    what.add_argument("--publish", action="store_true", help="write docs/benchmark.md")
    parser.add_argument("--dry-run", action="store_true", help="show the runs, start none")
    parser.add_argument("--sweep", type=Path, default=ROOT / "configs/sweeps/benchmark.yaml")
    parser.add_argument("--candidates", type=Path, default=ROOT / "load/prompts/tiny153.json")
    parser.add_argument("--verbose", action="store_true", help="show tracebacks")
    args, overrides = parser.parse_known_args(argv)
    if stray := [item for item in overrides if "=" not in item or item.startswith("-")]:
        parser.error(f"unrecognized arguments: {' '.join(stray)}")
    args.overrides = overrides
    return args


def benchmark(args: argparse.Namespace) -> int:
    """All of it; 0 if every run was done, 1 if not, 130 after Ctrl-C."""
    console, plan = Console(), planned(args)
    runs = [] if args.timing else plan.sweep.runs()
    alone = plan.workers.together == 1 and not plan.workers.gpus
    timed = plan.timing.runs() if args.timing or not alone else []
    if not runs and not timed:
        raise ValueError(f"--timing is of the first table's methods: {', '.join(tables.MAIN)}")
    if args.dry_run:
        console.print(table_of_runs([Record.of(one) for one in runs or timed]))
        jobs, together = plan.workers.jobs, plan.workers.together
        groups = f", up to {together} in each process" * (together > 1)
        how = f"{groups}; {jobs} at a time" if runs else ", one after another, timed"
        console.print(f"{plan.setting}: {len(runs or timed)} runs{how}")
        return 0
    if args.fresh:
        sweep_runs.remove_runs([*runs, *timed])
    sweep_runs.check_settings([*runs, *timed])
    if timed:
        with _seconds("timing", console):
            if not _time(timed, plan.workers, console):
                return INTERRUPTED
    timed_records = [Record.of(one) for one in timed]
    if not runs:
        rows = tables.timing_rows(timed_records)
        if rows:
            write_csv(plan.sweep.out / "timing.csv", rows)
            console.out(tables.as_markdown(tables.timing_table(timed_records)), highlight=False)
        return 0 if len(rows) == len(timed) else 1
    with _seconds("runs", console):
        if not run_sweep(runs, plan.workers, console):
            return INTERRUPTED
    records = [Record.of(one) for one in runs]
    console.print(table_of_methods(records))
    if not any(record.done for record in records):
        console.print(table_of_runs(records))
        return 1
    with _seconds("looking at assets, metrics and page", console):
        result = evaluated(plan, records, args.candidates, args.device)
        text = write_results(plan, records, result, timed_records)
    console.out(text, highlight=False)
    if args.publish:
        publishing.put_in_page(PAGE, "tables", text)
        publishing.publish_tables(plan.sweep.out, RESULTS)
        finished = [record.run for record in records if record.done]
        publishing.publish_sheets(finished, RESULTS, PICTURE)
    console.print(plan.sweep.out / "report.html")
    return 0 if all(record.done for record in records) else 1


@contextmanager
def _seconds(phase: str, console: Console) -> Iterator[None]:
    begin = time.monotonic()
    yield
    console.print(f"{phase}: {time.monotonic() - begin:.0f} s", highlight=False)


def _time(runs: Sequence[PlannedRun], workers: Workers, console: Console) -> bool:
    if not workers.gpus:  # only a process of its own tells a run's memory
        return run_sweep(runs, replace(workers, jobs=1, together=1), console)
    waiting, log = [run for run in runs if not Record.of(run).done], runs[0].out / "log.txt"
    with console.status(f"timing {len(waiting)} runs"):
        if waiting and not timing.time_runs(waiting, log):
            return False
    for run in waiting:
        if not Record.of(run).done:
            console.print(f"not timed: {run.name}; see {log}", highlight=False, soft_wrap=True)
    return True


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    with errors.reported(args.verbose) as outcome:
        outcome.code = benchmark(args)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
