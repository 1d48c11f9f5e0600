"""What fewer steps make of the schedules of a sweep's methods."""

from pathlib import Path

from helpers.sweeps import write_sweep

from benchmarks.baselines import register
from benchmarks.janus_benchmark.schedules import shortened
from jointdreamer.experiment import read_experiment
from jointdreamer.sweeps.plan import read_sweep

ROOT = Path(__file__).resolve().parents[2]
register()


def test_every_schedule_keeps_its_place_in_fewer_steps(tmp_path):
    config = str(ROOT / "configs" / "tiny" / "jointdreamer.yaml")
    path = write_sweep(tmp_path, methods={"here": {"config": config}}, steps=None)
    (method,) = shortened(read_sweep(path), 240).methods
    cfg = read_experiment(method.config, method.overrides)
    assert cfg.trainer.max_steps == 240
    assert cfg.data.resolution_milestones == [150]
    assert cfg.system.guidance.guidance_scale == [180, 5.0, 6.0, 181]
    assert cfg.system.guidance.max_step_percent == [0, 0.98, 0.50, 80]
    assert cfg.system.geometry_fading.start_step == 210
    assert cfg.system.guidance.min_step_percent == 0.02
    whole = read_experiment(method.config)
    assert cfg.data.elevation_range == whole.data.elevation_range
    assert cfg.system.optimizer == whole.system.optimizer


def test_a_schedule_behind_a_word_keeps_its_place_too(tmp_path):
    config = str(ROOT / "configs" / "tiny" / "jointdreamer.yaml")
    given = {
        "system.guidance.energy_weight": ["auto", 100, 0.0, 0.5, 400],
        "system.guidance.guidance_scale": ["settled", 5.0, 6.0],
    }
    methods = {"here": {"config": config, "overrides": given}}
    path = write_sweep(tmp_path, methods=methods, steps=None)
    (method,) = shortened(read_sweep(path), 240).methods
    guidance = read_experiment(method.config, method.overrides).system.guidance
    assert guidance.energy_weight == ["auto", 40, 0.0, 0.5, 160]
    assert guidance.guidance_scale == ["settled", 5.0, 6.0]


def test_the_shipped_sweep_has_all_methods_of_both_tables():
    from benchmarks.janus_benchmark.tables import ABLATION, MAIN

    path = ROOT / "configs" / "sweeps" / "benchmark.yaml"
    sweep = read_sweep(path)
    assert {method.name for method in sweep.methods} == {*MAIN, *ABLATION}
    assert (len(sweep.prompts), sweep.seeds) == (16, (0, 1, 2))
    assert len(MAIN) == 10
    plain = ("sds", "sds-plain", "jsd-plain")
    eight = ("jsd-classifier", "jsd-order", "jsd-pose")
    for method in shortened(sweep, 100).methods:
        cfg = read_experiment(method.config, (*sweep.overrides, *method.overrides))
        assert cfg.trainer.max_steps == 100 and cfg.trainer.val_check_interval > 1000
        assert (cfg.data.n_test_views, cfg.data.batch_size) == (25, 8)
        guidance = cfg.system.guidance
        assert guidance.n_view == (8 if method.name in eight else 4)
        annealed = [0, 0.98, 0.5, 33]
        assert guidance.max_step_percent == (0.98 if method.name == "sds" else annealed)
        fading = cfg.system.geometry_fading
        assert (fading is None) == (method.name in (*plain, "jsd-switching"))
        switches = method.name not in plain
        assert guidance.guidance_scale == ([75, 5.0, 6.0, 76] if switches else 10.0)
