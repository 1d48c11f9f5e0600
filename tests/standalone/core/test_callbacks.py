"""The record of a run's config."""

import pytest
from omegaconf import OmegaConf
from threestudio.utils.callbacks import ConfigSnapshotCallback


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "given.yaml"
    path.write_text("a: 1  # as written\n")
    return path


def snapshot(source, config, folder):
    callback = ConfigSnapshotCallback(
        str(source), OmegaConf.create(config), str(folder), use_version=False
    )
    callback.save_config_snapshot()
    return sorted(file.name for file in folder.iterdir())


def test_the_config_is_kept_as_given_and_as_understood(source, tmp_path):
    folder = tmp_path / "configs"
    assert snapshot(source, {"a": 1, "b": 2}, folder) == ["parsed.yaml", "raw.yaml"]
    assert (folder / "raw.yaml").read_text() == source.read_text()
    assert OmegaConf.load(folder / "parsed.yaml") == {"a": 1, "b": 2}


def test_a_continued_run_keeps_the_older_config(source, tmp_path):
    folder = tmp_path / "configs"
    snapshot(source, {"a": 1}, folder)
    assert snapshot(source, {"a": 1}, folder) == ["parsed.yaml", "raw.yaml"]
    names = snapshot(source, {"a": 2}, folder)
    assert names == ["parsed.1.yaml", "parsed.yaml", "raw.yaml"]
    assert OmegaConf.load(folder / "parsed.1.yaml").a == 1
    assert OmegaConf.load(folder / "parsed.yaml").a == 2
    assert "parsed.2.yaml" in snapshot(source, {"a": 3}, folder)


def test_a_run_may_be_started_from_its_own_record(source, tmp_path):
    folder = tmp_path / "configs"
    snapshot(source, {"a": 1}, folder)
    snapshot(folder / "parsed.yaml", {"a": 2}, folder)
    assert OmegaConf.load(folder / "raw.yaml").a == 1
    assert OmegaConf.load(folder / "parsed.yaml").a == 2
