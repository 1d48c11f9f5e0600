"""benchmarks/hosts: what it calls a difference, and that it misses none."""

import csv

import numpy as np
import pytest
import torch
from helpers.finished_runs import write_turntable
from helpers.real_threestudio import run_launch

from benchmarks.hosts import seeded
from benchmarks.hosts.compare import compare, relative_difference, summary
from benchmarks.hosts.limits import RULES, STRICT, limit_of
from benchmarks.hosts.pictures import SAME, compare_turntables, read_turntable
from benchmarks.hosts.suite import TableWriter


def dump(host: str, **rows: torch.Tensor) -> dict:
    about = {"host": host, "device": "cuda", "packages": "compiled"}
    rows = {f"geometry/{name}": value for name, value in rows.items()}
    return {"about": about, "rows": rows, "failures": {}}


def test_difference_is_relative_to_the_largest_number_of_the_reference():
    theirs = torch.tensor([1.0, -4.0, 2.0])
    ours = theirs + torch.tensor([0.0, 0.0, 0.4])
    assert relative_difference(ours, theirs)[0] == pytest.approx(0.1)


def test_one_number_in_a_hundred_may_be_far_without_the_usual_difference_showing_it():
    theirs = torch.ones(1000)
    ours = theirs.clone()
    ours[:5] = 2.0
    assert relative_difference(ours, theirs) == (1.0, 0.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_in_one_host_only_is_infinitely_far(value):
    theirs = torch.ones(4)
    ours = torch.tensor([1.0, 1.0, value, 1.0])
    assert relative_difference(ours, theirs)[0] == float("inf")
    assert relative_difference(theirs, ours)[0] == float("inf")
    assert relative_difference(ours, ours) == (0.0, 0.0)


def test_missing_rows_other_shapes_and_failed_cases_are_over_the_limit():
    theirs = dump("threestudio", a=torch.ones(2), b=torch.ones(2), c=torch.ones(3))
    ours = dump("standalone", a=torch.ones(2), c=torch.ones(2), d=torch.ones(2))
    ours["failures"] = {"cameras/multiview": "Traceback\nValueError: no cameras"}
    rows = {row.row: row for row in compare(theirs, ours)}
    assert [name for name, row in rows.items() if row.within] == ["a"]
    assert rows["b"].note == "standalone has no such row"
    assert rows["c"].note == "2, not 3"
    assert rows["d"].note == "threestudio has no such row"
    assert "no cameras" in rows["multiview"].note


def test_optimizer_steps_are_compared_where_the_gradient_has_a_sign():
    reference, other = dump("threestudio"), dump("standalone")
    gradient = {"training/gradient/w": torch.tensor([1.0, 1e-9])}
    reference["rows"] = gradient | {"training/step/w": torch.tensor([-0.1, -0.1])}
    other["rows"] = gradient | {"training/step/w": torch.tensor([-0.1, 0.1])}
    assert all(row.within for row in compare(reference, other))


def test_every_looser_limit_has_its_reason():
    assert all(limit.reason for _, _, limit in RULES if max(limit.largest, limit.usual) > STRICT)
    assert limit_of("compiled", "geometry/full/analytic/normal").largest == STRICT
    assert limit_of("compiled", "rendering/tiny/no grid_prune/evaluation/depth").largest == STRICT


def test_summary_has_the_worst_row_of_a_component():
    theirs = dump("threestudio", a=torch.ones(2), b=torch.ones(2))
    ours = dump("standalone", a=torch.ones(2), b=torch.full((2,), 1.5))
    assert "| 5.0e-01 | 5.0e-01 | b |" in summary(compare(theirs, ours))


def test_weights_are_the_same_whatever_was_drawn_before():
    first = seeded.fill(torch.nn.Linear(3, 2, bias=False)).weight.clone()
    torch.rand(7)
    assert torch.equal(seeded.fill(torch.nn.Linear(3, 2, bias=False)).weight, first)


def test_points_keep_off_the_walls_of_a_grids_cells():
    config = {"n_levels": 3, "base_resolution": 8, "per_level_scale": 2.0}
    points = seeded.points_in_cells(config, 500).double()
    for level in range(3):
        fraction = (points * (8 * 2.0**level - 1) + 0.5).remainder(1)
        assert seeded.MARGIN <= fraction.min() and fraction.max() <= 1 - seeded.MARGIN


def test_psnr_of_equal_turntables_is_capped_and_of_others_as_defined():
    black = np.zeros((4, 4, 3), np.uint8)
    white = black + np.uint8(255)
    assert compare_turntables([black, black], [black, black]) == pytest.approx((SAME, SAME))
    assert compare_turntables([black, black], [black, white]) == pytest.approx(
        (3.0103, 0.0), abs=1e-3
    )
    with pytest.raises(ValueError, match="1 frames"):
        compare_turntables([black], [black, black])


def test_table_keeps_the_rows_of_other_runs_and_outcomes_over_skips(tmp_path):
    def run(*reports):
        writer = TableWriter(tmp_path / "tests.csv")
        for name, when, outcome, seconds in reports:
            longrepr = {"skipped": ("file", 1, "Skipped: no GPU"), "failed": "broken"}.get(outcome)
            report = pytest.TestReport(
                f"tests/threestudio/{name}", ("", 0, ""), {}, outcome, longrepr, when, (), seconds
            )
            writer.pytest_runtest_logreport(report)

    run(("test_a.py::one", "setup", "passed", 1.0), ("test_a.py::one", "call", "passed", 2.0))
    skipped = [(name, "setup", "skipped", 0.0) for name in ("test_a.py::one", "test_b.py::two")]
    run(*skipped, ("test_b.py::three", "setup", "failed", 0.0))
    with open(tmp_path / "tests.csv", newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows == [
        ("test_a.py::one", "passed", "3.0", ""),
        ("test_b.py::three", "failed", "0.0", "broken"),
        ("test_b.py::two", "skipped", "0.0", "no GPU"),
    ]


def test_failed_launch_shows_the_end_of_its_log_without_progress_bars(tmp_path):
    (tmp_path / "launch.py").write_text(
        "import sys\nprint('10%\\r20%\\r30%')\nsys.exit('no CUDA here')"
    )
    with pytest.raises(pytest.fail.Exception, match="no CUDA here") as failure:
        run_launch(["--train"], tmp_path, tmp_path / "outputs")
    assert "30%" in str(failure.value) and "20%" not in str(failure.value)


def test_a_runs_newest_turntable_is_read_in_order(tmp_path):
    write_turntable(tmp_path / "save" / "it5-test", 12)
    write_turntable(tmp_path / "save" / "it4-test", 3)
    frames = read_turntable(tmp_path)
    assert [frame[0, 0, 0] for frame in frames] == list(range(0, 120, 10))
    assert {frame.shape for frame in frames} == {(8, 8, 3)}
