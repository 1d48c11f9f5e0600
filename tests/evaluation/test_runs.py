"""Reading finished runs: logs across resumes, newest results, curves, comparisons."""

import numpy as np
import pytest
from PIL import Image

from jointdreamer.evaluation.contact_sheet import compare_runs, turntable_tiles
from jointdreamer.evaluation.curves import draw_curves
from jointdreamer.runs import Run

HEADER = "step,train/loss_sds,train/grad_norm,lr-AdamW/geometry.encoding,train_params/lr_x"


def write_log(run: Run, version: int, *rows: str) -> None:
    folder = run.folder / "csv_logs" / f"version_{version}"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("\n".join([HEADER, *rows]))


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "a_blue_cat")


def write_turntable(run: Run, step: int, count: int, value: int = 0) -> None:
    folder = run.folder / "save" / f"it{step}-test"
    folder.mkdir(parents=True)
    for index in range(count):
        frame = np.full((8, 16, 3), value + index, np.uint8)
        frame[:, 8:] = 255  # the normals beside the render
        Image.fromarray(frame).save(folder / f"{index}.png")


def test_later_logs_replace_what_a_killed_run_had_logged(run):
    write_log(run, 0, "0,1.0,,,", "1,2.0,5.0,,", "2,3.0,,,")
    write_log(run, 1, "2,30.0,,,", "3,4.0,,,")
    metrics = run.metrics()
    assert metrics["train/loss_sds"] == [(0, 1.0), (1, 2.0), (2, 30.0), (3, 4.0)]
    assert metrics["train/grad_norm"] == [(1, 5.0)]


def test_versions_are_read_in_the_order_of_their_numbers(run):
    for version in (10, 9, 2):
        write_log(run, version, f"0,{version}.0,,,")
    assert run.metrics()["train/loss_sds"] == [(0, 10.0)]


def test_newest_result_is_the_one_of_the_highest_step(run):
    write_turntable(run, 90, 2)
    write_turntable(run, 800, 2)
    assert run.newest("test").name == "it800-test"


def test_missing_logs_and_results_are_named(run):
    with pytest.raises(FileNotFoundError, match=r"metrics\.csv"):
        run.metrics()
    with pytest.raises(FileNotFoundError, match=r"it<step>-test\.mp4"):
        run.newest("test.mp4")


def test_curves_draw_a_panel_for_each_logged_number(run, tmp_path):
    write_log(run, 0, "0,1.0,5.0,0.01,", "1,2.0,6.0,0.01,1e-6")
    draw_curves(run, tmp_path / "curves.png")
    small = Image.open(tmp_path / "curves.png")
    assert np.asarray(small.convert("RGB")).std() > 0
    assert small.size[0] > 600


def test_curves_of_logs_without_known_numbers_are_refused(run):
    folder = run.folder / "csv_logs" / "version_0"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("step,other\n0,1.0")
    with pytest.raises(ValueError, match="hold none of"):
        draw_curves(run, run.folder / "curves.png")


def test_tiles_are_the_renders_nearest_to_each_azimuth(run):
    write_turntable(run, 5, 41)  # every 9 degrees
    tiles = turntable_tiles(run)
    assert [int(tile[0, 0, 0]) for tile in tiles] == [0, 5, 10, 15, 20, 25, 30, 35]
    assert all(tile.shape == (8, 8, 3) for tile in tiles)


def test_comparison_has_one_row_for_each_run(run, tmp_path):
    other = Run(tmp_path / "other")
    write_turntable(run, 5, 9, value=10)
    write_turntable(other, 5, 9, value=100)
    sheet = np.asarray(Image.open(compare_runs([run, other], tmp_path / "sheet.png")))
    first, second = np.argwhere((sheet == 10).all(-1)), np.argwhere((sheet == 100).all(-1))
    assert first[:, 0].max() < second[:, 0].min()
