"""Finding tested runs, and reading prompt, method, seed and frames from their folders."""

import numpy as np
import pytest
from helpers.finished_runs import write_run

from jointdreamer.evaluation.assets import find_runs, read_asset, read_assets
from jointdreamer.runs import Run


def numbered(count: int, height: int = 8, width: int = 8) -> list[np.ndarray]:
    return [np.full((height, width, 3), index, np.uint8) for index in range(count)]


def asset_of(folder):
    return read_asset(Run(folder))


def test_runs_are_found_at_and_below_the_given_folders_once(tmp_path):
    for name in ("b/x", "b/y", "a"):
        write_run(tmp_path / "all" / name, "a cat", numbered(2))
    found = find_runs([tmp_path / "all" / "b" / "y", tmp_path / "all"])
    names = [run.folder.relative_to(tmp_path / "all").as_posix() for run in found]
    assert names == ["b/y", "a", "b/x"]
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        find_runs([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty holds no run.*parsed\.yaml"):
        find_runs([tmp_path / "empty"])


def test_asset_says_what_its_config_and_newest_test_say(tmp_path):
    folder = write_run(tmp_path / "run", "a  blue\n cat", numbered(5), name="jsd-seed3", seed=3)
    write_run(tmp_path / "later", "a blue cat", numbered(5), step=900)
    (tmp_path / "later" / "save" / "it900-test").rename(folder / "save" / "it900-test")
    asset = asset_of(folder)
    assert (asset.prompt, asset.method, asset.seed, asset.step) == ("a blue cat", "jsd", 3, 900)


def test_last_frame_repeats_the_first_and_is_left_out(tmp_path):
    asset = asset_of(write_run(tmp_path / "run", "a cat", numbered(41)))
    assert [frame.azimuth_deg for frame in asset.frames] == [9.0 * i for i in range(40)]
    assert [frame.path.stem for frame in asset.every(8)] == [str(i) for i in range(0, 40, 5)]
    assert asset.every(None) == asset.every(100) == asset.frames


@pytest.mark.parametrize("width", [4, 8, 12])
def test_picture_is_the_render_without_what_stands_beside_it(tmp_path, width):
    pictures = numbered(3, height=8, width=width)
    asset = asset_of(write_run(tmp_path / "run", "a cat", pictures, beside=2))
    assert all(
        np.array_equal(frame.picture(), picture)
        for frame, picture in zip(asset.frames, pictures, strict=False)
    )


def test_a_larger_test_than_the_config_says_keeps_its_aspect(tmp_path):
    run = write_run(tmp_path / "run", "a cat", numbered(3, 16, 8), beside=1, size=(4, 8))
    assert asset_of(run).frames[0].picture().shape == (16, 8, 3)


def test_interrupted_test_is_refused_since_its_azimuths_are_unknown(tmp_path):
    folder = write_run(tmp_path / "run", "a cat", numbered(5))
    (folder / "save" / "it20-test" / "4.png").unlink()
    with pytest.raises(ValueError, match="4 frames where 0.png to 4.png belong"):
        asset_of(folder)


NO_TEXT = b"system: {prompt_processor: {prompt: ''}}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (NO_TEXT, r"system\.prompt_processor\.prompt.*Write the"),
        (NO_TEXT.replace(b"''", b"'lib:hamburger'"), r"prompt library. Write the"),
        (b"a: [", r"parsed\.yaml"),
        (b"just words", r"parsed\.yaml"),
        (b"\xff\xfe\x00", r"parsed\.yaml"),
    ],
)
def test_config_that_is_unreadable_or_without_a_text_is_named(tmp_path, content, message):
    folder = write_run(tmp_path / "run", "a cat", numbered(2))
    (folder / "configs" / "parsed.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        asset_of(folder)


def test_broken_frame_is_named(tmp_path):
    asset = asset_of(write_run(tmp_path / "run", "a cat", numbered(3)))
    asset.frames[1].path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"1\.png is no readable picture"):
        asset.frames[1].picture()


def test_unfinished_runs_are_refused_or_left_out_with_a_reason(tmp_path):
    good = write_run(tmp_path / "good", "a cat", numbered(3))
    bad = write_run(tmp_path / "bad", "a cat", numbered(3))
    (bad / "save" / "it20-test").rename(bad / "save" / "elsewhere")
    runs = find_runs([tmp_path])
    with pytest.raises(ValueError, match="bad/save has no .*--skip-unfinished"):
        read_assets(runs, skip_unfinished=False)
    assets, reasons = read_assets(runs, skip_unfinished=True)
    assert [asset.run.folder for asset in assets] == [good]
    assert len(reasons) == 1 and str(bad) in reasons[0]
    with pytest.raises(ValueError, match="cannot be evaluated"):
        read_assets(find_runs([bad]), skip_unfinished=True)
