"""Compares the standalone host with the real threestudio, component by component and as a whole.

    THREESTUDIO_ROOT=... python -m benchmarks.hosts run --csv outputs/components.csv
    THREESTUDIO_ROOT=... python -m benchmarks.hosts pictures --png docs/hosts-side-by-side.png
    THREESTUDIO_ROOT=... python -m benchmarks.hosts suite      # tests/threestudio and their table

`run` is `dump` once for each host, in a process of its own, and a comparison of the dumps.
THREESTUDIO_ROOT names a checkout of threestudio 0.2.3 that imports on this machine.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.hosts.compare import Row, for_csv, summary
from benchmarks.hosts.dump import dump, dump_and_compare
from benchmarks.hosts.pictures import compare_pictures
from benchmarks.hosts.session import PACKAGES, choose_standalone_host


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hosts", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="dump every host and compare")
    run.add_argument("--device", nargs="+", choices=["cuda", "cpu"], default=["cuda", "cpu"])
    run.add_argument("--folder", type=Path, help="keeps the dumps there")
    run.add_argument("--csv", type=Path)

    one = commands.add_parser("dump", help="run the components in the host of this environment")
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    one.add_argument("--packages", choices=PACKAGES, default="compiled")
    one.add_argument("--only", nargs="+", metavar="COMPONENT")

    looks = commands.add_parser("pictures", help="train the tiny config in every host")
    looks.add_argument("--steps", type=int, default=800)
    looks.add_argument("--png", type=Path, default=Path("outputs/hosts/side-by-side.png"))
    looks.add_argument("--csv", type=Path)
    looks.add_argument("--folder", type=Path, default=Path("outputs/hosts"))
    looks.add_argument("--jobs", type=int, default=1, help="trainings at a time")

    suite = commands.add_parser("suite", help="tests/threestudio; further arguments are pytest's")
    suite.add_argument("--table", type=Path, default=Path("outputs/hosts/tests.csv"))
    args, rest = parser.parse_known_args()
    if rest and args.command != "suite":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return args, rest


def show(rows: list[Row], csv: Path | None) -> int:
    for row in rows:
        if not row.within:
            print(f"over its limit: {row}")
    print(summary(rows))
    if csv:
        choose_standalone_host()
        from jointdreamer.csv_table import write_csv

        write_csv(csv, for_csv(rows))
    return 0 if all(row.within for row in rows) else 1


def main() -> int:
    args, rest = parse_arguments()
    try:
        if args.command == "dump":
            print(dump(args.out.absolute(), args.device, args.packages, args.only))
        elif args.command == "pictures":
            compare_pictures(args.steps, args.folder, args.png, args.csv, args.jobs)
        elif args.command == "suite":
            from benchmarks.hosts.suite import run_suite  # needs pytest

            return run_suite(args.table, rest)
        else:
            return show(dump_and_compare(args.device, args.folder), args.csv)
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
