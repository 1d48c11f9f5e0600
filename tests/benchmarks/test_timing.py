"""Methods are timed one after another in one process."""

from dataclasses import replace

import pytest

from benchmarks import benchmark
from benchmarks.janus_benchmark import timing
from benchmarks.janus_benchmark.schedules import shortened
from jointdreamer.sweeps.records import Record


@pytest.mark.slow
def test_runs_are_carried_out_in_one_process_after_a_first_go_at_each_method(tmp_path, monkeypatch):
    options = ["--methods", "sds,jsd-multiview", "--prompts", "1", "--seeds", "0,1"]
    small = ("data.n_test_views=2", "data.width=[8,8]", "data.height=[8,8]")
    plan = benchmark.planned(benchmark.arguments([*options, "--out", str(tmp_path), *small]))
    runs = shortened(plan.sweep, 3).runs()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "warm"))
    (tmp_path / "warm").mkdir()
    broken = replace(runs[0], seed=7, overrides=(*runs[0].overrides, "system.guidance.n_view=3"))
    log = tmp_path / "log.txt"
    assert timing.time_runs([broken, *runs], log)
    assert not Record.of(broken).done and "n_view" in log.read_text()
    records = [Record.of(run) for run in runs]
    assert all(record.done and record.row["steps"] == 3 for record in records)
    assert all(record.row["steps_per_second"] > 0 for record in records)
    benchmark.sweep_runs.check_settings(runs)
    # each method was warmed up before, which is not timed and leaves nothing
    assert log.read_text().count(f"`max_steps={timing.WARM_STEPS}` reached") == 2
    assert log.read_text().count("`max_steps=3` reached") == 4
    assert not any((tmp_path / "warm").iterdir())
