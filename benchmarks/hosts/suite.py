"""Runs tests/threestudio and keeps a table of what its last run said of each test."""

import csv
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.hosts.session import ROOT

TESTS = "tests/threestudio"


class TableWriter:
    """A pytest plugin: a row a test, written after each one, so that a killed run leaves its rows.

    Rows of tests that did not run this time stay as they are, those of removed tests too: delete
    the file for a table of one run alone. Skipped tests do not replace an outcome.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, str]] = {}
        if path.is_file():
            with open(path, newline="", encoding="utf-8") as file:
                self.rows = {row["test"]: row for row in csv.DictReader(file)}
        self._seconds: dict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.removeprefix(f"{TESTS}/")
        self._seconds[name] += report.duration
        known = self.rows.get(name, {}).get("outcome") in ("passed", "failed")
        if report.skipped and known or report.when != "call" and report.passed:
            return
        seconds = f"{self._seconds[name]:.1f}"
        row = {"test": name, "outcome": report.outcome, "seconds": seconds, "note": _note(report)}
        self.rows[name] = row
        from jointdreamer.csv_table import write_csv  # by now a host is loaded

        write_csv(self.path, [self.rows[key] for key in sorted(self.rows)])


def _note(report: pytest.TestReport) -> str:
    """What the test recorded, or why it was skipped or failed, in one line."""
    if report.passed:
        return "; ".join(f"{key}: {value}" for key, value in report.user_properties)
    if report.skipped and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr)
    return text.strip().partition("\n")[0][:200]


def run_suite(table: Path, arguments: Sequence[str]) -> int:
    """pytest on tests/threestudio with further `arguments`; returns its exit status."""
    table = table.absolute()
    os.chdir(ROOT)
    return int(pytest.main([TESTS, "--durations=0", *arguments], plugins=[TableWriter(table)]))
