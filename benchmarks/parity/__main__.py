"""Prints how far our priors are from their reference implementations, on the same random weights.

    MVDREAM_ROOT=... WONDER3D_ROOT=... ZERO123_ROOT=... DINO_ROOT=... \\
        python -m benchmarks.parity --size reduced full --csv outputs/parity.csv
    python -m benchmarks.parity mvdream --write-fixtures

Each variable names a checkout (ZERO123_ROOT one of threestudio, which has Zero-1-to-3 in extern/;
the references also need einops, and Zero-1-to-3's image encoder OpenAI's clip). Models whose
variable is not set are compared with the committed fixtures at reduced width instead. Everything is
float64 on the CPU; at full width one model at a time is in memory (a UNet takes 8 GB).
"""

import argparse
import gc
import os
import sys
from pathlib import Path

from benchmarks.measure import load_host
from benchmarks.tables import write_csv

load_host()  # which the comparison imports from

from benchmarks.parity.comparison import (  # noqa: E402
    MODULES,
    TARGETS,
    cases,
    compare_with_fixture,
    relative_errors,
    run_ours,
    run_reference,
    write_fixture,
)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODULES)}")
    parser.add_argument("--size", nargs="+", choices=list(TARGETS), default=["reduced"])
    parser.add_argument("--write-fixtures", action="store_true", help="anew from the references")
    parser.add_argument("--csv", type=Path, help="where the table is written too")
    args = parser.parse_args()
    if unknown := set(args.models) - set(MODULES):
        parser.error(f"unknown models {', '.join(unknown)}: choose from {', '.join(MODULES)}")
    return args


def compare(module, case: str, size: str, write: bool) -> dict:
    root = os.environ.get(module.ENVIRONMENT)
    row = {"model": case, "size": size, "against": "fixture", "keys": "", "seconds": ""}
    if root is None:
        errors = compare_with_fixture(module, case)
    else:
        state_dict, theirs = run_reference(module, root, case, size)
        row |= {"against": module.ENVIRONMENT, "keys": len(state_dict)}
        if write and size == "reduced":
            write_fixture(case, state_dict, theirs, module.SOURCE)
        gc.collect()
        ours = run_ours(module, state_dict, case, size)
        row["seconds"] = f"{ours.seconds:.1f}"
        errors = relative_errors(ours, theirs)
    row["output_error"], row["gradient_error"] = errors
    return row | {"passes": max(errors) < TARGETS[size]}


def main() -> int:
    args = parse_arguments()
    print(f"{'model':20}{'size':10}{'against':22}{'keys':>6}{'output':>10}{'gradient':>10}  passes")
    rows = []
    for case, module in cases(args.models or MODULES).items():
        for size in args.size:
            if size == "full" and module.ENVIRONMENT not in os.environ:
                print(f"{case:20}{size:10}needs {module.ENVIRONMENT}")
                continue
            row = compare(module, case, size, args.write_fixtures)
            line = "{model:20}{size:10}{against:22}{keys!s:>6}{output_error:10.1e}"
            line += "{gradient_error:10.1e}  {passes}"
            print(line.format(**row), flush=True)
            rows.append(row)
    if args.csv and rows:
        write_csv(args.csv, rows)
    return 0 if all(row["passes"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
