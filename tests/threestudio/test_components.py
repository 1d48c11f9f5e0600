"""Each component of the standalone host against threestudio's own, on the same numbers.

The limit is a relative difference of 1e-4 in fp32; benchmarks/hosts/limits.py says which rows have
another one, and why. COMPONENTS_CSV=FILE writes all rows, as `benchmarks.hosts run --csv FILE`
does; COMPONENTS_FOLDER=FOLDER keeps the dumps.
"""

import os
from pathlib import Path

import pytest

from benchmarks.hosts.compare import for_csv
from benchmarks.hosts.dump import dump_and_compare
from benchmarks.hosts.limits import STRICT
from benchmarks.hosts.systems import COMPONENTS, NEED_CUDA
from jointdreamer.csv_table import write_csv

COMPARISONS = [("cuda", "compiled"), ("cuda", "pytorch"), ("cpu", "pytorch")]
CASES = [
    (device, packages, component)
    for device, packages in COMPARISONS
    for component in COMPONENTS
    if device == "cuda" or component not in NEED_CUDA
]


@pytest.fixture(scope="module")
def rows(checkout):
    folder = os.environ.get("COMPONENTS_FOLDER")
    rows = dump_and_compare(["cuda", "cpu"], Path(folder) if folder else None)
    if "COMPONENTS_CSV" in os.environ:
        write_csv(os.environ["COMPONENTS_CSV"], for_csv(rows))
    return rows


@pytest.mark.parametrize(("device", "packages", "component"), CASES)
def test_component_is_threestudios_own(rows, device, packages, component, record_property):
    case = (device, packages, component)
    own = [row for row in rows if (row.device, row.packages, row.component) == case]
    assert own, f"no rows of {component} on {device} with {packages} packages"
    worst = max(own, key=lambda row: row.largest)
    record_property("rows", len(own))
    record_property("largest relative difference", f"{worst.largest:.1e} ({worst.row})")
    far = [str(row) for row in own if not row.within]
    assert not far, "\n".join(far)


def test_rows_over_the_strict_limit_have_a_reason(rows):
    loose = [row for row in rows if max(row.limit, row.usual_limit) > STRICT]
    assert loose
    assert all(row.note for row in loose)
