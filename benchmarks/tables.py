"""Tables of results: as a CSV, and as lines for a terminal."""

import csv
from pathlib import Path


def write_csv(path: str | Path, rows: list[dict]) -> None:
    """All rows have the first one's columns. The extension has to be loaded."""
    from threestudio_jointdreamer.files import replacing

    with replacing(path) as new, open(new, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def as_text(rows: list[dict[str, str]]) -> str:
    """Columns under their names, the first one to the left, the others to the right."""
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
