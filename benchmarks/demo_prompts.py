"""Runs several configs on the same prompts and seeds; contact sheets side by side, times as CSV.

python benchmarks/demo_prompts.py configs/tiny/jointdreamer.yaml configs/tiny/sds.yaml \
    --prompts load/prompts/demo8.json --seeds 0 1 --jobs 16 --out outputs/demo8

The runs are those of `jointdreamer sweep`: a finished one is not run again, an interrupted one goes
on, a failed one stops no other. Seconds are of runs that share the machine with `--jobs` others;
they are for the ratio of methods.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402

from jointdreamer.host.selection import ensure_host, load_extension  # noqa: E402

ensure_host()
load_extension()

from benchmarks.claim.sheets import side_by_side  # noqa: E402
from jointdreamer.evaluation.contact_sheet import compare_runs  # noqa: E402
from jointdreamer.runs import Run  # noqa: E402
from jointdreamer.host.launcher import run  # noqa: E402
from jointdreamer.sweeps.conducting import conduct  # noqa: E402
from jointdreamer.sweeps.machinery import (  # noqa: E402
    Machinery,
    visible_gpus,
)
from jointdreamer.sweeps.plan import (  # noqa: E402
    Method,
    Sweep,
    read_prompts,
)
from jointdreamer.sweeps.records import (  # noqa: E402
    Record,
    table_of_methods,
    table_of_runs,
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", type=Path, nargs="+")
    parser.add_argument("--prompts", type=Path, default=ROOT / "load/prompts/demo8.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--out", type=Path, default=Path("outputs/demo8"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="KEY=VALUE")
    args = parser.parse_args()

    out = args.out.resolve()
    methods = tuple(Method(config.stem, config.resolve()) for config in args.configs)
    prompts = read_prompts(args.prompts, "--prompts")
    sweep = Sweep(methods, prompts, tuple(args.seeds), out, last_overrides=tuple(args.overrides))
    runs, console = sweep.runs(), Console()
    if not conduct(runs, Machinery(run, args.jobs, gpus=visible_gpus()), console):
        return 130
    records = [Record.of(planned) for planned in runs]
    console.print(table_of_runs(records), table_of_methods(records), sep="\n")
    finished = [record.run for record in records if record.done]
    for name in dict.fromkeys(planned.name for planned in finished):
        chosen = [planned for planned in finished if planned.name == name]
        labels = [planned.prompt for planned in chosen]
        print(compare_runs([Run(p.folder) for p in chosen], out / f"{name}.png", labels))
    for seed in args.seeds:
        chosen = [planned for planned in finished if planned.seed == seed]
        if len({planned.method for planned in chosen}) > 1:
            print(side_by_side(chosen, out / f"side-by-side-seed{seed}.png"))
    return 0 if len(finished) == len(runs) else 1


if __name__ == "__main__":
    sys.exit(main())
