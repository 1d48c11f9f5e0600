"""Methods are timed one after another in one process."""

from dataclasses import replace

import pytest
from rich.console import Console

from benchmarks import benchmark
from benchmarks.claim import timing
from benchmarks.claim.methods import shortened
from jointdreamer.sweeps.records import Record


@pytest.mark.slow
def test_runs_are_carried_out_in_one_process_and_told_apart(tmp_path, monkeypatch, capsys):
    options = ["--methods", "sds,jsd-multiview", "--prompts", "1", "--seeds", "0,1"]
    small = ("data.n_test_views=2", "data.width=[8,8]", "data.height=[8,8]")
    plan = benchmark.planned(benchmark.arguments([*options, "--out", str(tmp_path), *small]))
    runs = shortened(plan.sweep, 3).runs()
    started, start = [], timing.subprocess.run

    def counted(command, **options):
        started.append(command)
        return start(command, **options)

    monkeypatch.setattr(timing.subprocess, "run", counted)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "warm"))
    (tmp_path / "warm").mkdir()
    broken = replace(runs[0], seed=7, overrides=(*runs[0].overrides, "system.guidance.n_view=3"))
    for _ in range(2):
        assert timing.time_runs([broken, *runs], plan.machinery, Console(width=500))
    assert capsys.readouterr().out.count("not timed: sds (failed)") == 2
    failed, *records = (Record.of(run) for run in (broken, *runs))
    assert failed.state == "failed" and "n_view" in failed.log_end()
    assert all(record.done and record.step == 3 for record in records)
    assert all(record.steps_per_second > 0 for record in records)
    assert [record.run.name for record in records] == [
        f"{method}-seed{seed}" for seed in (0, 1) for method in ("sds", "jsd-multiview")
    ]
    # each method was warmed up before, which is not timed and leaves nothing
    log = (failed.run.folder / "sweep" / "log.txt").read_text()  # of the process
    assert log.count(f"`max_steps={timing.WARM_STEPS}` reached") == 2
    assert log.count("`max_steps=3` reached") == 4
    assert not any((tmp_path / "warm").iterdir())
    # the second time the failed run alone is tried again
    assert [len(command) for command in started] == [3 + 5, 3 + 1]
