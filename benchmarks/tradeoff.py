"""Faces against text as an energy's weight goes over two decades: docs/tradeoff.md.

    python benchmarks/tradeoff.py --blocks weights,terms --prompts 8 --seeds 0
    python benchmarks/tradeoff.py --plot         # the table and the picture, from the published CSV

A point is a method of configs/sweeps/tradeoff.yaml with its energy weight, its guidance scale and
its multi-view prior, the shipped one or a weaker one, which `jointdreamer tinyworld train mvdream
--species bear,cat,elephant,frog` makes. Runs what is left of the points' runs, most wanted first,
and merges what was measured of each asset into --csv, where earlier sessions' assets stay.
"""

import argparse
import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.baselines import register

register()

from omegaconf import OmegaConf  # noqa: E402
from rich.console import Console  # noqa: E402
from threestudio_jointdreamer.guidance.balance import AUTO, SHARE  # noqa: E402

from benchmarks import benchmark  # noqa: E402
from benchmarks.janus_benchmark import publishing, tradeoff_plot  # noqa: E402
from benchmarks.janus_benchmark.schedules import shortened  # noqa: E402
from benchmarks.measure import positive  # noqa: E402
from jointdreamer.csv_table import write_csv  # noqa: E402
from jointdreamer.evaluation.rows import AssetRow  # noqa: E402
from jointdreamer.experiment import read_experiment  # noqa: E402
from jointdreamer.host import errors  # noqa: E402
from jointdreamer.paths import find_file  # noqa: E402
from jointdreamer.sweeps.plan import Method, PlannedRun, Sweep, read_sweep  # noqa: E402
from jointdreamer.sweeps.records import Record  # noqa: E402
from jointdreamer.sweeps.run import Workers, remove_runs, run_sweep, visible_gpus  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SHIPPED, WEAK = "load/tiny/mvdream", "weak"
WEIGHTS = (0.1, 0.32, 1.0, 3.2, 10.0)  # times the hand-set one
MAIN, OTHERS = ("weighted-sum", "jsd-multiview"), ("jsd-translation", "jsd-classifier", "jsd-sum")
LEFT_OUT = ("run", "views", "clip", "candidates", "roughness")  # of what is kept of an asset


@dataclass(frozen=True)
class Block:
    """Points: all methods with all weights, scales and priors."""

    methods: Sequence[str]
    weights: Sequence[float] = (1.0,)
    scales: Sequence[float] = (2.0,)  # times the configs' 5, then 6
    priors: Sequence[str] = ("shipped", WEAK)


BLOCKS = {  # most wanted first
    "weak": Block(MAIN, WEIGHTS[1:4], priors=(WEAK,)),
    "weak-terms": Block(("jsd-auto", "pull"), priors=(WEAK,)),
    "weights": Block(MAIN, WEIGHTS),
    "sds": Block(("sds",), priors=("shipped",)),
    "terms": Block(("pull",), (0.32, 1.0, 3.2)),
    "drift": Block(("drift",), (0.32, 1.0, 3.2), priors=("shipped",)),  # which is without a prior
    "knobs": Block(("jsd-multiview", "jsd-settled"), (1.0,), (1.0,), ("shipped",)),
    "shares": Block(("jsd-auto",), (0.6, 1.0, 1.4), (1.0,), ("shipped",)),
    "translation": Block(
        ("jsd-translation", "translation-auto", "translation-auto-late"),
        (1.0,),
        (1.0,),
        ("shipped",),
    ),
    "translation-share": Block(("translation-auto-late",), (2.0,), (1.0,), ("shipped",)),
    "gaussians": Block(
        ("gaussians", "gaussians-auto", "gaussians-settled"), (1.0,), (1.0,), ("shipped",)
    ),
    "flow": Block(("flow", "flow-auto", "flow-settled"), (1.0,), (1.0,), ("shipped",)),
    "demo-share": Block(("gaussians-auto", "flow-auto"), (0.6,), (1.0,), ("shipped",)),
    "auto": Block(("jsd-auto",), (0.5, 1.0, 2.0)),
    "scales": Block(("sds", *MAIN), WEIGHTS, (1.0, 4.0), ("shipped",)),
    "weak-scales": Block(MAIN, WEIGHTS, (1.0, 4.0), (WEAK,)),
    "terms-scales": Block(("pull",), (0.32, 1.0, 3.2), (1.0, 4.0), ("shipped",)),
    "others": Block(OTHERS, WEIGHTS, (2.0,), ("shipped",)),
    "others-scales": Block(OTHERS, WEIGHTS, (1.0, 4.0), ("shipped",)),
}


def methods_of(block: Block, sweep: Sweep, weak: str) -> Iterator[Method]:
    """The block's points as methods of the sweep; SDS has one weight only."""
    known = {method.name: method for method in sweep.methods}
    grid = itertools.product(block.methods, block.weights, block.scales, block.priors)
    for name, weight, scale, prior in grid:
        if name == "sds" and weight != block.weights[0]:
            continue
        method = known[name]
        cfg = read_experiment(method.config, (*sweep.overrides, *method.overrides))
        content = OmegaConf.to_container(cfg.system.guidance)
        changes = {
            "system.guidance.guidance_scale": scaled(content["guidance_scale"], scale),
            "system.guidance.energy_weight": scaled(content["energy_weight"], weight),
        }
        if prior == WEAK:
            changes |= {key: weak for key, value in leaves(content) if value == SHIPPED}
        given = tuple(f"{key}={value}" for key, value in changes.items())
        given = tuple(text.replace("'", "") for text in given)  # [settled, 5.0, 6.0]
        point = f"{name}+w{0 if name == 'sds' else weight:g}+s{scale:g}+{prior}"
        yield replace(method, name=point, overrides=(*method.overrides, *given))


def scaled(value: Any, factor: float) -> Any:
    """A number, a schedule's values, those behind a word, or `auto`'s own, times the factor."""
    if value in (AUTO, [AUTO]):
        value = [AUTO, SHARE]
    if not isinstance(value, list):
        return value * factor
    words, numbers = ([v for v in value if isinstance(v, str) is text] for text in (True, False))
    if len(numbers) == 4:
        numbers[1:3] = numbers[1] * factor, numbers[2] * factor
        return [*words, *numbers]
    return [*words, *(number * factor for number in numbers)]


def leaves(content: Any, key: str = "system.guidance") -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict):
        for name, value in content.items():
            yield from leaves(value, f"{key}.{name}")
    else:
        yield key, content


def planned(args: argparse.Namespace) -> tuple[benchmark.Plan, list[PlannedRun]]:
    """The plan, and its runs: block by block, and in each seed by seed and prompt by prompt.

    Raises:
        ValueError, FileNotFoundError: the sweep's file, a block or an option is wrong.
    """
    find_file(args.candidates, "--candidates")
    changes = {"prompts": args.list, "seeds": args.seeds.split(","), "out": args.out}
    sweep = read_sweep(args.sweep, overrides=args.overrides, **changes)
    sweep = replace(sweep, prompts=publishing.spread(sweep.prompts, args.prompts))
    blocks = {}
    for name in args.blocks.split(","):
        if name not in BLOCKS:
            raise ValueError(f"--blocks {name}: there is no such one, but {', '.join(BLOCKS)}.")
        blocks[name] = tuple(methods_of(BLOCKS[name], sweep, str(args.weak.resolve())))
    runs: dict[Path, PlannedRun] = {}
    for methods in blocks.values():
        own = replace(sweep, methods=methods)
        own = shortened(own, args.steps) if args.steps else own
        runs |= {run.folder: run for run in own.runs() if run.folder not in runs}
    gpus = visible_gpus()
    jobs = args.jobs or benchmark.jobs_at_once(len(gpus), 1)
    workers = Workers(benchmark.PROGRAM, jobs, "threading", gpus, args.together)
    changes = {"program_together": benchmark.PROGRAM_TOGETHER, "max_seconds": args.max_seconds}
    workers = replace(workers, **changes)
    return benchmark.Plan(sweep, workers, ""), [*runs.values()]


def merged(path: Path, new: Iterable[AssetRow], fids: dict[str, float]) -> list[dict[str, Any]]:
    """Rows of assets, the published ones first; an asset that was made again has its new row."""
    names = [field.name for field in fields(AssetRow) if field.name not in LEFT_OUT]
    rows = tradeoff_plot.read_assets(path) if path.is_file() else {}
    for row in new:
        kept = {name: asdict(row)[name] for name in names}
        kept = {k: int(v) if isinstance(v, bool) else v for k, v in kept.items()}
        kept |= {k: round(v, 3) for k, v in kept.items() if isinstance(v, float)}
        rows[row.method, row.prompt, row.seed] = kept | {"fid": fids.get(row.method)}
    return [*rows.values()]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--blocks", default="weights,sds,terms", help=f"of {', '.join(BLOCKS)}; %(default)s")
    add("--prompts", type=positive, metavar="N", help="only so many of the prompts")
    add("--seeds", default="0", help="such as 0,1,2; %(default)s")
    add("--list", help="a list of prompts in place of the sweep's, such as tuning16.json")
    add("--steps", type=positive, help="of every run; schedules are scaled")
    add("--jobs", type=positive, help="processes at a time")
    add("--together", type=positive, default=16, help="runs in each, at most; %(default)s")
    add("--max-seconds", type=float, default=math.inf, help="of the runs, then they are measured")
    add("--weak", type=Path, default=Path("outputs/weak/mvdream"), help="%(default)s")
    add("--sweep", type=Path, default=ROOT / "configs/sweeps/tradeoff.yaml")
    add("--candidates", type=Path, default=ROOT / "load/prompts/tiny153.json")
    add("--out", help="of the runs; default: the sweep's")
    add("--csv", type=Path, default=ROOT / "docs/results/tradeoff-assets.csv")
    add("--picture", type=Path, default=ROOT / "docs/tradeoff.png")
    add("--fresh", action="store_true", help="start all of these runs over")
    add("--plot", action="store_true", help="run nothing")
    add("--dry-run", action="store_true", help="say how many runs, start none")
    args, args.overrides = parser.parse_known_args(argv)
    console = Console()
    with errors.reported(False) as outcome:
        if not args.plot:
            plan, runs = planned(args)
            console.print(f"{len(runs)} runs, {plan.workers.jobs} processes at a time")
            if args.dry_run:
                console.print("\n".join(dict.fromkeys(run.method.name for run in runs)))
                return 0
            asks_weak = any(run.method.name.endswith(WEAK) for run in runs)
            if asks_weak and not (args.weak / "unet").is_dir():
                raise FileNotFoundError(f"--weak {args.weak} is no prior: train it first.")
            if args.fresh:
                remove_runs(runs)
            run_sweep(runs, plan.workers, console)  # after Ctrl-C what is there is measured
            records = [Record.of(run) for run in runs]
            if not any(record.done for record in records):
                raise ValueError("no run has finished: the same command goes on where they are.")
            result = benchmark.evaluated(plan, records, args.candidates, None)
            fids = {row.method: round(row.fid, 2) for row in result.methods if row.fid}
            write_csv(args.csv, merged(args.csv, result.rows, fids))
        table = tradeoff_plot.draw(args.csv, args.picture)
        console.out(table, highlight=False)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
