"""Reading finished runs: logs across resumes, newest results, curves, comparisons."""

import numpy as np
import pytest
from helpers.finished_runs import write_turntable
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


def test_later_logs_replace_what_a_killed_run_had_logged(run):
    write_log(run, 0, "0,1.0,,,", "1,2.0,5.0,,", "2,3.0,,,")
    write_log(run, 1, "2,30.0,,,", "3,4.0,,,")
    metrics = run.metrics()
    assert metrics["train/loss_sds"] == [(0, 1.0), (1, 2.0), (2, 30.0), (3, 4.0)]
    assert metrics["train/grad_norm"] == [(1, 5.0)]


def test_logs_and_results_come_in_the_order_of_their_numbers(run):
    with pytest.raises(FileNotFoundError, match=r"metrics\.csv"):
        run.metrics()
    with pytest.raises(FileNotFoundError, match=r"it<step>-test\.mp4"):
        run.newest("test.mp4")
    for number in (10, 9, 2):
        write_log(run, number, f"0,{number}.0,,,")
        write_turntable(run.folder / "save" / f"it{number}-test", 2)
    assert run.metrics()["train/loss_sds"] == [(0, 10.0)]
    assert run.newest("test").name == "it10-test"


def test_curves_draw_a_panel_for_each_logged_number(run, tmp_path):
    write_log(run, 0, "0,,,,")
    with pytest.raises(ValueError, match="hold none of"):
        draw_curves(run, tmp_path / "curves.png")
    write_log(run, 1, "0,1.0,5.0,0.01,", "1,2.0,6.0,0.01,1e-6")
    draw_curves(run, tmp_path / "curves.png")
    picture = Image.open(tmp_path / "curves.png")
    assert np.asarray(picture.convert("RGB")).std() > 0 and picture.size[0] > 600


def test_tiles_are_the_renders_nearest_to_each_azimuth(run):
    write_turntable(run.folder / "save" / "it5-test", 41, step=1)  # every 9 degrees
    tiles = turntable_tiles(run)
    assert [int(tile[0, 0, 0]) for tile in tiles] == [0, 5, 10, 15, 20, 25, 30, 35]
    assert all(tile.shape == (8, 8, 3) for tile in tiles)


def test_comparison_has_one_row_for_each_run(run, tmp_path):
    other = Run(tmp_path / "other")
    write_turntable(run.folder / "save" / "it5-test", 9, value=10, step=1)
    write_turntable(other.folder / "save" / "it5-test", 9, value=100, step=1)
    sheet = np.asarray(Image.open(compare_runs([run, other], tmp_path / "sheet.png")))
    first, second = np.argwhere((sheet == 10).all(-1)), np.argwhere((sheet == 100).all(-1))
    assert first[:, 0].max() < second[:, 0].min()
