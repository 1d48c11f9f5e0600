"""Each piece of the standalone host against threestudio's own, on the same parameters and inputs.

The limit is a relative difference of 1e-4 in fp32; benchmarks/hosts/limits.py says which rows have
another one, and why. PIECES_CSV=FILE writes all rows, as `benchmarks.hosts run --csv FILE` does;
PIECES_FOLDER=FOLDER keeps the dumps.
"""

import os
from pathlib import Path

import pytest

from benchmarks.hosts.compare import as_table
from benchmarks.hosts.limits import STRICT
from benchmarks.hosts.pieces import NEED_CUDA, PIECES
from benchmarks.hosts.running import run_all
from benchmarks.tables import write_csv

COMPARISONS = [("cuda", "compiled"), ("cuda", "pytorch"), ("cpu", "pytorch")]
CASES = [
    (device, packages, piece)
    for device, packages in COMPARISONS
    for piece in PIECES
    if device == "cuda" or piece not in (*NEED_CUDA, "prompts")
]


@pytest.fixture(scope="module")
def rows(checkout):
    folder = os.environ.get("PIECES_FOLDER")
    rows = run_all(["cuda", "cpu"], Path(folder) if folder else None)
    if "PIECES_CSV" in os.environ:
        write_csv(os.environ["PIECES_CSV"], as_table(rows))
    return rows


@pytest.mark.parametrize(("device", "packages", "piece"), CASES)
def test_piece_is_threestudios_own(rows, device, packages, piece, record_property):
    case = (device, packages, piece)
    own = [row for row in rows if (row.device, row.packages, row.piece) == case]
    assert own, f"no rows of {piece} on {device} with {packages} packages"
    worst = max(own, key=lambda row: row.largest)
    record_property("rows", len(own))
    record_property("largest relative difference", f"{worst.largest:.1e} ({worst.row})")
    far = [
        f"{row.row}: {row.largest:.1e} (limit {row.limit:.0e}), all but 1 %: {row.usual:.1e} "
        f"(limit {row.usual_limit:.0e}) {row.note}"
        for row in own
        if not row.within
    ]
    assert not far, "\n".join(far)


def test_rows_over_the_strict_limit_have_a_reason(rows):
    loose = [row for row in rows if max(row.limit, row.usual_limit) > STRICT]
    assert loose
    assert all(row.note for row in loose)
