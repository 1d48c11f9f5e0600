"""The claim in miniature: Janus rates and text congruence of all methods, in two tables and a page.

python benchmarks/benchmark.py                     # a GPU: all of it
python benchmarks/benchmark.py --quick             # two CPU cores: fewer, shorter runs
python benchmarks/benchmark.py --methods sds,jsd-multiview --prompts 4 --seeds 0
python benchmarks/benchmark.py --timing            # only what a step of each method takes

Runs configs/sweeps/benchmark.yaml, looks at every asset, and writes janus.csv, ablation.csv,
tables.md and report.html into --out; with --publish also docs/benchmark.md and docs/results/.
Started again, it does what is left. docs/benchmark.md says what the columns mean.
"""

import argparse
import csv
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.baselines.running import register, run  # noqa: E402

register()

from rich.console import Console  # noqa: E402

from benchmarks.claim import tables  # noqa: E402
from benchmarks.claim.looking import look  # noqa: E402
from benchmarks.claim.methods import Missing, named, read_methods, shortened  # noqa: E402
from benchmarks.claim.references import make_references  # noqa: E402
from benchmarks.claim.sheets import side_by_side  # noqa: E402
from benchmarks.claim.timing import time_runs  # noqa: E402
from benchmarks.tables import write_csv  # noqa: E402
from jointdreamer.evaluation.evaluate import (  # noqa: E402
    FEATURES,
    REPORT,
    measure_runs,
    write_tables,
)
from jointdreamer.evaluation.measure import Evaluation  # noqa: E402
from jointdreamer.evaluation.report import write_report  # noqa: E402
from jointdreamer.sweeps.command import remove_runs  # noqa: E402
from jointdreamer.sweeps.conducting import (  # noqa: E402
    check_settings,
    conduct,
)
from jointdreamer.sweeps.machinery import (  # noqa: E402
    Machinery,
    visible_gpus,
)
from jointdreamer.sweeps.plan import (  # noqa: E402
    PlannedRun,
    Sweep,
    check_positive,
    check_seeds,
)
from jointdreamer.sweeps.records import (  # noqa: E402
    Record,
    table_of_methods,
    table_of_runs,
)

INTERRUPTED = 130
QUICK_PROMPTS, QUICK_STEPS = 2, 480
QUICK_BATCH = "data.batch_size=${data.n_view}"  # the views of one object a step
TIMING = "timing.csv"  # of the runs that relative_time is of
TIMED_STEPS = 40  # of the runs that are timed, each alone on the machine
TOGETHER, PER_GPU = 16, 16  # runs in a process and processes on a GPU, at most
PROCESS_GIB = 4.75  # of GPU memory that such a process takes
ASSETS = (  # columns of what is published of each asset
    *("method", "seed", "prompt", "clip_score", "r_precision", "rank"),
    *("faces", "face_extents_deg", "janus", "faceless"),
)
PAGE, RESULTS = ROOT / "docs" / "benchmark.md", ROOT / "docs" / "results"
PICTURE = ROOT / "docs" / "sds-vs-jsd.png"  # the README's first
PICTURED, PICTURED_PROMPTS = ("sds", "jsd-multiview", "jsd-sum"), 8


@dataclass(frozen=True)
class Plan:
    """What is run, how, and what is left out."""

    sweep: Sweep
    missing: list[Missing]
    machinery: Machinery
    setting: str  # in words, for the tables

    @property
    def timing(self) -> Sweep:
        """Runs that are timed one by one: where runs share a process, they cannot tell.

        One of each method for each seed, in turn, so that no method has the machine's best minute.
        """
        short = shortened(self.sweep, TIMED_STEPS)
        return replace(
            short,
            methods=named(short, tables.MAIN),
            prompts=self.sweep.prompts[:1],
            out=self.sweep.out / "timing",
        )


def planned(args: argparse.Namespace) -> Plan:
    """
    Raises:
        ValueError: an option is wrong, or methods cannot run and --skip-missing is not given.
    """
    wanted = args.methods.split(",") if args.methods else None
    sweep, missing = read_methods(args.sweep, wanted)
    if missing and not args.skip_missing:
        more = f" ({len(missing)} methods cannot run)" if len(missing) > 1 else ""
        raise ValueError(
            f"{missing[0].method} cannot run here: {missing[0].reason}{more} "
            "Or leave out what is missing with --skip-missing."
        )
    if not sweep.methods:
        raise ValueError(f"No method is left to run: {missing[0].reason}")
    count = check_positive(args.prompts, "--prompts") or (QUICK_PROMPTS if args.quick else None)
    if args.seeds is not None:
        seeds = [int(s) if s.isdecimal() else s for s in args.seeds.split(",")]
        sweep = replace(sweep, seeds=check_seeds(seeds, "--seeds"))
    elif args.quick:
        sweep = replace(sweep, seeds=sweep.seeds[:1])
    if args.quick:
        sweep = replace(sweep, overrides=(*sweep.overrides, QUICK_BATCH))
    sweep = replace(
        sweep,
        prompts=spread(sweep.prompts, count),
        out=(args.out or sweep.out.with_name(sweep.out.name + "-quick" * args.quick)).resolve(),
        last_overrides=tuple(args.overrides),
    )
    steps = check_positive(args.steps, "--steps") or (QUICK_STEPS if args.quick else None)
    if steps:
        sweep = shortened(sweep, steps)
    gpus = visible_gpus()
    cores = os.cpu_count() or 1
    jobs = check_positive(args.jobs, "--jobs") or processes_at_once(len(gpus), cores)
    together = check_positive(args.together, "--together") or (TOGETHER if gpus else 1)
    setting = (
        f"{'Quick: ' if args.quick else ''}prompts: {len(sweep.prompts)}, seeds: {len(sweep.seeds)}"
        + (f", steps: {steps}" if steps else "")
    )
    return Plan(sweep, missing, Machinery(run, jobs, gpus=gpus, together=together), setting)


def processes_at_once(gpus: int, cores: int) -> int:
    """One a core, on GPUs no more than their memory has room for."""
    import torch

    gpus = min(gpus, torch.cuda.device_count())
    if not gpus:
        return cores
    memory = [torch.cuda.get_device_properties(index).total_memory for index in range(gpus)]
    on_each = min(PER_GPU, int(min(memory) / 2**30 / PROCESS_GIB))  # GPUs are used in turn
    return max(1, min(cores, gpus * on_each))


def spread(prompts: Sequence[str], count: int | None) -> tuple[str, ...]:
    """`count` of the prompts, evenly out of their list."""
    count = min(count or len(prompts), len(prompts))
    return tuple(prompts[index * len(prompts) // count] for index in range(count))


def evaluated(
    plan: Plan, records: Sequence[Record], candidates: Path, device: str | None
) -> Evaluation:
    """Everything that is measured of the finished runs; the others are listed as left out."""
    out = plan.sweep.out
    folders = [record.run.folder for record in records if record.done]
    look(folders, out / FEATURES, plan.machinery.jobs, device)
    result = measure_runs(
        folders,
        out / FEATURES,
        prompts=candidates,
        fid_reference=make_references(out / "true-creatures", plan.sweep.prompts, device),
        fid_features="clip",
        janus="tiny",
        render_faces=True,
        device_name=device,
    )
    settings = {
        **result.settings,
        "R-Precision": f"among the prompts of {candidates.name}",
        "FID": "features of this CLIP, against true creatures of the prompts",
    }
    left_out = [
        f"{record.run.name} '{record.run.prompt}': {record.state}; {record.log_end()}"
        for record in records
        if not record.done
    ]
    left_out += [f"{entry.method}: {entry.reason}" for entry in plan.missing]
    return replace(result, settings=settings, skipped=[*result.skipped, *left_out])


def write_results(plan: Plan, records: Sequence[Record], result: Evaluation, timed: list) -> str:
    """Writes tables and page; returns the tables as Markdown."""
    failed = Counter(record.run.method.name for record in records if not record.done)
    names = {m.name for m in plan.sweep.methods} | {entry.method for entry in plan.missing}
    spent = tables.costs(timed or records)
    out = plan.sweep.out
    if rows := tables.timing_rows(timed or records):
        write_csv(out / TIMING, rows)
    shown, text = [], f"{plan.setting}.\n\n"
    for name, title, rows, columns in (
        (
            "janus",
            "Janus rate and text congruence",
            tables.janus_rows(result, spent, plan.missing, failed, names),
            tables.JANUS_COLUMNS,
        ),
        ("ablation", "Ablation", tables.ablation_rows(result, failed), tables.ABLATION_COLUMNS),
    ):
        if rows:
            write_csv(out / f"{name}.csv", [{**row, "setting": plan.setting} for row in rows])
            shown.append(tables.as_table(title, rows, columns))
            text += f"**{title}**\n\n{tables.as_markdown(shown[-1])}\n"
    write_tables(out, result)
    settings = {"runs": plan.setting, **result.settings}
    title = "JointDreamer in miniature"
    write_report(out / REPORT, replace(result, settings=settings), title, shown)
    (out / "tables.md").write_text(text, encoding="utf-8")
    return text


def publish(plan: Plan, records: Sequence[Record], text: str) -> None:
    """Puts tables, assets and contact sheets into docs.

    A sheet of the first table's methods for each seed; for the README one of a few, if all of them
    were run.
    """
    tables.put_in_page(PAGE, "tables", text)
    for name, published in (
        ("timing", "benchmark-timing"),
        ("janus", "janus"),
        ("ablation", "ablation"),
        ("methods", "benchmark-methods"),
    ):
        source, target = plan.sweep.out / f"{name}.csv", RESULTS / f"{published}.csv"
        if source.is_file():
            temporary = target.with_suffix(".tmp")
            temporary.write_bytes(source.read_bytes())
            os.replace(temporary, target)
    with open(plan.sweep.out / "assets.csv", encoding="utf-8", newline="") as file:
        assets = [{name: row[name] for name in ASSETS} for row in csv.DictReader(file)]
    write_csv(RESULTS / "benchmark-assets.csv", assets)
    finished = [record.run for record in records if record.done]
    for seed in plan.sweep.seeds:
        shown = [run for run in finished if run.seed == seed and run.method.name in tables.MAIN]
        if shown:
            side_by_side(shown, RESULTS / f"benchmark-seed{seed}.jpg")
    prompts, seed = spread(plan.sweep.prompts, PICTURED_PROMPTS), plan.sweep.seeds[0]
    shown = [
        run
        for run in finished
        if run.seed == seed and run.prompt in prompts and run.method.name in PICTURED
    ]
    if {run.method.name for run in shown} == set(PICTURED):
        side_by_side(shown, PICTURE)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="Further KEY=VALUE arguments change the config of every run.",
    )
    parser.add_argument("--quick", action="store_true", help="two CPU cores, within 30 minutes")
    parser.add_argument("--methods", help="only these, such as sds,jsd-multiview")
    parser.add_argument("--prompts", type=int, metavar="N", help="only so many of the prompts")
    parser.add_argument("--seeds", help="in place of the sweep's, such as 0,1")
    parser.add_argument("--steps", type=int, help="of every run; schedules are scaled")
    parser.add_argument("--skip-missing", action="store_true", help="leave out what cannot run")
    parser.add_argument(
        "--jobs", type=int, help="processes at a time; default: one a core, if GPUs have room"
    )
    parser.add_argument("--together", type=int, metavar="N", help="runs in each process, at most")
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
    for entry in plan.missing:
        console.print(f"left out: {entry.method}: {entry.reason}", markup=False, highlight=False)
    runs = [] if args.timing else plan.sweep.runs()
    timed = plan.timing.runs() if args.timing or plan.machinery.together > 1 else []
    if not runs and not timed:
        raise ValueError(f"--timing is of the first table's methods: {', '.join(tables.MAIN)}")
    if args.dry_run:
        console.print(table_of_runs([Record.of(one) for one in runs or timed]))
        together = plan.machinery.together
        groups = f", up to {together} in each process" * (together > 1)
        how = f"{groups}; {plan.machinery.jobs} at a time" if runs else ", one after another, timed"
        console.print(f"{plan.setting}: {len(runs or timed)} runs{how}")
        return 0
    if args.fresh:
        remove_runs([*runs, *timed])
    check_settings([*runs, *timed])
    if timed and not _time(timed, plan.machinery, console):
        return INTERRUPTED
    if not runs:
        return _show_timing(plan, [Record.of(one) for one in timed], console)
    if not conduct(runs, plan.machinery, console):
        return INTERRUPTED
    records = [Record.of(one) for one in runs]
    console.print(table_of_methods(records))
    if not any(record.done for record in records):
        console.print(table_of_runs(records))
        return 1
    result = evaluated(plan, records, args.candidates, args.device)
    text = write_results(plan, records, result, [Record.of(one) for one in timed])
    console.out(text, highlight=False)
    if args.publish:
        publish(plan, records, text)
    console.print(plan.sweep.out / REPORT)
    return 0 if all(record.done for record in records) else 1


def _show_timing(plan: Plan, records: Sequence[Record], console: Console) -> int:
    if rows := tables.timing_rows(records):
        write_csv(plan.sweep.out / TIMING, rows)
        console.out(tables.as_markdown(tables.timing_table(records)), highlight=False)
    return 0 if len(rows) == len(records) else 1


def _time(runs: Sequence[PlannedRun], machinery: Machinery, console: Console) -> bool:
    alone = replace(machinery, jobs=1, together=1)
    if machinery.gpus:
        return time_runs(runs, alone, console)
    return conduct(runs, alone, console)  # only a process of its own tells a run's memory


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    try:
        return benchmark(args)
    except (ValueError, OSError) as error:
        if args.verbose:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
