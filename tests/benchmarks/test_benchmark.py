"""`make benchmark` from its options to its tables and page, on runs whose pictures are known."""

import base64
import csv
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers.finished_runs import turntable_of, write_run
from PIL import Image

from benchmarks import benchmark, scenes, tradeoff
from benchmarks.janus_benchmark import publishing, references
from jointdreamer.experiment import read_experiment
from jointdreamer.sweeps.records import FOLDER, Record
from jointdreamer.sweeps.run import note

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
COMMON = ("--methods", "sds,jsd-multiview,sds-plain,jsd-plain", "--prompts", "2", "--seeds", "0")
COUNTS = ("--jobs", "--together", "--prompts", "--steps")
METRICS = {"state": "done", "step": 40, "peak_host_gib": 1.5, "peak_gpu_gib": None}


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """The benchmark in a folder of its own, where runs are made out of nothing."""
    conducted = []

    def run_sweep(runs, workers, console):
        for run in (run for run in runs if not Record.of(run).done):
            conducted.append(run)
            shutil.rmtree(run.folder, ignore_errors=True)
            mark = np.full((48, 48, 3), (255, 0, 255), np.uint8)
            is_sds = run.method.name in ("sds", "sds-plain")
            frames = [mark] * 9 if is_sds else turntable_of(run.prompt, 48)
            curve = [1.0 + 0.1 * (i % 2) for i in range(30)]
            write_run(run.folder, run.prompt, frames, run.name, run.seed, grad_norms=curve)
            note(run, "settings", run.settings())
            measured = {**METRICS, "steps_per_second": 1 / (0.5 if is_sds else 0.6)}
            if run.method.name == "jsd-plain" and "bear" in run.prompt:
                measured["state"] = "failed"
                note(run, "state", {"state": "failed", "exit": 1})
                (run.folder / FOLDER / "log.txt").write_text("error: out of luck\n")
            (run.folder / "metrics.json").write_text(json.dumps(measured))
        return True

    def run(*options, out=tmp_path / "out"):
        return benchmark.main(["--out", str(out), "--device", "cpu", "--jobs", "1", *options])

    monkeypatch.setattr(benchmark, "run_sweep", run_sweep)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as on a machine without GPUs
    run.conducted = conducted
    return run


def rows(path):
    with open(path, newline="") as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def browse(*arguments):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += ["--virtual-time-budget=3000", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.slow
def test_tables_page_and_docs_come_out_of_finished_runs(bench, tmp_path, monkeypatch, capsys):
    page = tmp_path / "benchmark.md"
    page.write_text("before\n<!-- tables -->\nold\n<!-- /tables -->\nafter\n")
    monkeypatch.setattr(benchmark, "PAGE", page)
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path)
    monkeypatch.setattr(benchmark, "PICTURE", tmp_path / "picture.png")
    monkeypatch.setattr(references, "CREATURES", 1)
    monkeypatch.setattr(references, "VIEWS", 8)
    monkeypatch.setattr(benchmark, "visible_gpus", lambda: ["0"])
    monkeypatch.setattr(
        benchmark.timing, "time_runs", lambda runs, _: benchmark.run_sweep(runs, None, None)
    )
    steps = ("--steps", "40")
    assert bench(*COMMON, *steps, "--publish") == 1  # a run failed
    assert len(bench.conducted) == 2 + 8  # those that are timed, and all

    found = rows(tmp_path / "out" / "janus.csv")
    assert list(found) == ["sds", "jsd-multiview"]
    sds, jsd = found.values()
    assert list(sds)[:9] == [
        *("method", "runs", "janus_rate", "faceless_rate", "r_precision", "clip_score"),
        *("relative_time", "peak_gib", "smoothness"),
    ]
    assert (sds["janus_rate"], sds["faceless_rate"], sds["runs"]) == ("0.0", "100.0", "2")
    assert (jsd["janus_rate"], jsd["faceless_rate"]) == ("0.0", "0.0")
    assert float(jsd["janus_rate_high"]) == pytest.approx(65.8, abs=0.1)  # Wilson's of 0 in 2
    assert float(jsd["clip_score"]) > 50 > float(sds["clip_score"])
    assert float(jsd["r_precision"]) > 60 and sds["r_precision"] == "0.0"
    assert (sds["relative_time"], jsd["relative_time"], jsd["peak_gib"]) == ("1.0", "1.2", "1.5")
    assert 0.02 < float(jsd["smoothness"]) < 0.1
    assert jsd["setting"] == "prompts: 2, seeds: 1, steps: 40"

    ablation = rows(tmp_path / "out" / "ablation.csv")
    assert list(ablation) == ["SDS", "JSD", "+ Geometry Fading"]
    assert (ablation["JSD"]["runs"], ablation["JSD"]["failed_runs"]) == ("1", "1")
    assert float(ablation["+ Geometry Fading"]["fid"]) < 0.2 * float(ablation["SDS"]["fid"])

    published = page.read_text()
    assert published.startswith("before") and published.endswith("after\n")
    assert "| jsd-multiview | 2 | 0.0 [0.0, 65.8]" in published and "old" not in published
    assert rows(tmp_path / "janus.csv") == found and "jsd-multiview" in capsys.readouterr().out
    assert len(rows(tmp_path / "benchmark-methods.csv")) == 4
    timed = rows(tmp_path / "benchmark-timing.csv")
    assert {name: row["ms_per_step"] for name, row in timed.items()} == {
        "sds": "500.0",
        "jsd-multiview": "600.0",
    }
    assets = (tmp_path / "benchmark-assets.csv").read_text()
    assert assets.startswith("method,seed,prompt") and len(assets.splitlines()) == 1 + 7
    assert str(tmp_path) not in assets
    with Image.open(tmp_path / "benchmark-seed0.jpg") as sheet:
        assert sheet.width > 2 * 4 * 60  # two methods, four azimuths each
    assert not (tmp_path / "picture.png").exists()  # not all of its methods were run
    monkeypatch.setattr(publishing, "PICTURED", ("jsd-multiview",))
    monkeypatch.setattr(publishing, "PICTURED_PROMPTS", 1)
    assert bench(*COMMON, *steps, "--publish") == 1
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.height < sheet.height  # one prompt of two

    html = (tmp_path / "out" / "report.html").read_text()
    assert "out of luck" in html and "prompts of tiny153.json" in html
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert len(sources) == 2 * 7 + 1 and all(source.startswith("data:image/") for source in sources)
    assert html.count(">no face<") == 4 and html.count(">1 face<") == 3
    assert 'alt="gradient norms of sds, jsd-multiview, sds-plain, jsd-plain"' in html
    (curves,) = (source for source in sources if "svg" in source)
    drawing = ElementTree.fromstring(base64.b64decode(curves.partition(",")[2]))
    assert {f"line2d_{number}" for number in range(1, 5)} <= {e.get("id") for e in drawing.iter()}
    if CHROMIUM is not None:
        shot = tmp_path / "shot.png"
        uri = (tmp_path / "out" / "report.html").as_uri()
        browse("--window-size=1600,2400", f"--screenshot={shot}", uri)
        pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
        magenta = (np.abs(pixels - (255, 0, 255)).max(axis=-1) < 12).sum()
        assert magenta > 2 * 2 * 120 * 120  # two assets, all round and turning

    def enough(*args):
        raise ValueError("enough")

    monkeypatch.setattr(benchmark, "evaluated", enough)
    assert bench(*COMMON, *steps) == 2 and len(bench.conducted) == 12  # the failed one


def test_a_method_without_its_config_is_refused_by_name(bench, tmp_path, capsys):
    sweep = tmp_path / "sweep.yaml"
    text = (ROOT / "configs/sweeps/benchmark.yaml").read_text()
    sweep.write_text(text.replace("configs/tiny/classifier.yaml", "configs/tiny/nowhere.yaml"))
    options = ("--sweep", str(sweep), "--dry-run", "--methods")
    assert bench(*options, "sds,jsd-classifier") == 2
    error = capsys.readouterr().err
    assert "methods.jsd-classifier.config" in error and error.count("\n") == 1
    assert bench(*options, "sds") == 0


def test_quick_is_fewer_and_shorter_runs_and_says_so(bench, capsys):
    options = ("--methods", "sds,jsd-multiview", "--dry-run")
    assert bench("--quick", *options) == 0
    assert "Quick: prompts: 2, seeds: 1, steps: 480: 4 runs" in capsys.readouterr().out
    assert bench(*options, "--jobs", "16") == 0
    assert "96 runs; 16 at a time" in capsys.readouterr().out
    assert bench(*options, "--together", "4") == 0
    assert "96 runs, up to 4 in each process; 1 at a time" in capsys.readouterr().out
    for quick, size in (("--quick",), 4), ((), 8):
        sweep = benchmark.planned(benchmark.arguments([*quick, *options])).sweep
        (method, _) = sweep.methods
        cfg = read_experiment(method.config, (*sweep.overrides, *method.overrides))
        assert cfg.data.batch_size == size


def test_gpus_get_as_many_processes_as_they_have_room_for(monkeypatch):
    sizes = {"H100": 79.1, "H200": 139.8, "RTX 4090": 23.5, "too small": 1.0}
    for name, gpus, cores, expected in (
        ("H100", 1, 64, 16),
        ("H100", 1, 8, 8),
        ("H200", 2, 64, 32),
        ("RTX 4090", 1, 16, 4),
        ("too small", 1, 16, 1),
    ):
        monkeypatch.setattr("torch.cuda.device_count", lambda gpus=gpus: gpus)
        found = SimpleNamespace(total_memory=sizes[name] * 2**30)
        monkeypatch.setattr("torch.cuda.get_device_properties", lambda index, found=found: found)
        assert benchmark.jobs_at_once(gpus, cores) == expected, name
    assert benchmark.jobs_at_once(0, 2) == 2


def test_runs_that_share_a_process_or_a_gpu_are_timed_alone(bench, monkeypatch, tmp_path):
    arguments = benchmark.arguments([*COMMON, "--seeds", "1,2", "--jobs", "3", "data.x=1"])
    plan = benchmark.planned(arguments)
    assert (plan.workers.jobs, plan.workers.together) == (3, 1)
    with monkeypatch.context() as patched:
        patched.setattr(benchmark, "visible_gpus", lambda: ["0"])
        assert benchmark.planned(arguments).workers.together == 16
    assert [method.name for method in plan.timing.methods] == ["sds", "jsd-multiview"]
    assert len(plan.timing.prompts) == 1 and plan.timing.seeds == (1, 2)
    assert plan.sweep.last_overrides == ("data.x=1",)
    monkeypatch.setattr(benchmark, "evaluated", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench(*COMMON)  # no GPU here
    apart = [run for run in bench.conducted if run.folder.parents[1].name == "timing"]
    assert (len(apart), len(bench.conducted)) == (0, 8)
    with pytest.raises(ZeroDivisionError):
        bench(*COMMON, "--together", "2", out=tmp_path / "together")
    apart = [run for run in bench.conducted[8:] if run.folder.parents[1].name == "timing"]
    assert (len(apart), len(bench.conducted)) == (2, 8 + 2 + 8)


def test_methods_can_be_timed_without_running_all(bench, tmp_path, capsys):
    options = (*COMMON, "--seeds", "1,2", "--timing")
    assert bench(*options, "--dry-run") == 0 and not bench.conducted
    assert "4 runs, one after another" in capsys.readouterr().out
    for _ in range(2):  # the second time everything is done
        assert bench(*options) == 0
        assert [run.name for run in bench.conducted] == [
            *("sds-seed1", "jsd-multiview-seed1", "sds-seed2", "jsd-multiview-seed2")
        ]
        shown = capsys.readouterr().out
        assert "| jsd-multiview | 1.20 | 600.0, 600.0 |" in shown
    with open(tmp_path / "out" / "timing.csv", newline="") as file:
        found = [(row["method"], row["seed"], row["peak_gib"]) for row in csv.DictReader(file)]
    assert found == [(m, s, "1.5") for s in ("1", "2") for m in ("sds", "jsd-multiview")]
    assert bench("--methods", "sds-plain", "--timing") == 2
    assert "--timing is of the first table's methods: sds, " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bench(*options, "--publish")
    assert "--publish: not allowed with argument --timing" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, message",
    [
        (["--methods", "sdss"], "--methods sdss: there is no such one"),
        (["--seeds", "one"], "seeds[0]"),
        (["--sweep", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["--candidates", "nowhere.json"], "--candidates nowhere.json does not exist"),
    ],
)
def test_mistakes_are_one_line_and_status_2(bench, capsys, options, message):
    assert bench("--methods", "sds", *options) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and message in told and told.count("\n") == 1


@pytest.mark.parametrize("program", [benchmark, tradeoff, scenes])
def test_counts_are_whole_numbers_from_1(program, capsys):
    for option in ("--jobs", "--together") if program is scenes else COUNTS:
        with pytest.raises(SystemExit):
            program.main([option, "0"])
        assert f"argument {option}: 0 must be a whole number from 1" in capsys.readouterr().err


def test_prompts_are_spread_over_their_list():
    assert publishing.spread(list("abcdefgh"), 2) == ("a", "e")
    assert publishing.spread(list("abc"), None) == publishing.spread(list("abc"), 9) == tuple("abc")


def test_a_page_without_its_marks_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- tables -->")
    with pytest.raises(ValueError, match="must hold"):
        publishing.put_in_page(page, "tables", "text")
    assert page.read_text() == "<!-- tables -->"
