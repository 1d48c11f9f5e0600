"""Writes the rows of a benchmark as CSV, whole or not at all."""

import csv
import os
from pathlib import Path


def write_csv(path: str | Path, rows: list[dict]) -> None:
    """Makes the file's folder where need be; all rows have the first one's columns."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".tmp")
    with open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, target)
