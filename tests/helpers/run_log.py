"""Reads the numbers that a run logged."""

import csv
from pathlib import Path


def logged(trial_dir: str | Path) -> dict[str, dict[int, float]]:
    """Every logged number, by name and step."""
    values: dict[str, dict[int, float]] = {}
    for log in Path(trial_dir).glob("csv_logs/version_*/metrics.csv"):
        with open(log, newline="") as file:
            for row in csv.DictReader(file):
                for name, text in row.items():
                    if text and name != "step":
                        values.setdefault(name, {})[int(row["step"])] = float(text)
    return values
