"""Prints how far our priors are from their reference implementations, on the same random weights.

    MVDREAM_ROOT=... IMAGEDREAM_ROOT=... MV_ADAPTER_ROOT=... WONDER3D_ROOT=... ZERO123_ROOT=... \\
        DINO_ROOT=... python -m benchmarks.parity --size reduced full --csv outputs/parity.csv
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
import time
from pathlib import Path

from benchmarks.measure import load_host

load_host()  # which the comparison imports from

from benchmarks.parity.comparison import (  # noqa: E402
    FIXTURES,
    MODULES,
    SEED,
    TARGETS,
    cases,
    compare_with_fixture,
    run_ours,
    run_reference,
)
from benchmarks.parity.seeded import digests, relative_errors, shapes_of, write_fixture  # noqa: E402
from jointdreamer.csv_table import write_csv  # noqa: E402


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
            content = {"source": module.SOURCE, "seed": SEED, "shapes": shapes_of(state_dict)}
            write_fixture(FIXTURES / f"{case}.json", **content, **digests(theirs))
        gc.collect()
        start = time.perf_counter()
        errors = relative_errors(run_ours(module, state_dict, case, size), theirs)
        row["seconds"] = f"{time.perf_counter() - start:.1f}"
    row |= {f"{name}_error": error for name, error in errors.items()}
    return row | {"passes": max(errors.values()) < TARGETS[size]}


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
