"""What is written is on disk whole, or not at all."""

import errno
import os

import pytest
from threestudio_jointdreamer.files import replacing, replacing_folder


def test_a_file_and_its_folders_appear_with_their_name_when_the_block_ends(tmp_path):
    target = tmp_path / "new" / "note.txt"
    with replacing(target) as path:
        assert path.suffix == ".txt" and path.parent.parent == target.parent
        path.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole" and list(target.parent.iterdir()) == [target]


def test_a_folder_replaces_a_folder(tmp_path):
    target = tmp_path / "model"
    for number in range(2):
        with replacing(target) as path:
            path.mkdir()
            (path / f"part-{number}").touch()
    assert [file.name for file in target.iterdir()] == ["part-1"]
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_after_an_error_or_ctrl_c_the_old_one_stays_and_nothing_else(tmp_path, error, kind):
    target = tmp_path / "target"
    target.mkdir() if kind == "folder" else target.write_text("old")
    with pytest.raises(type(error)), replacing(target) as path:
        path.mkdir() if kind == "folder" else path.write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == [target]
    assert target.is_dir() if kind == "folder" else target.read_text() == "old"


def test_an_old_folder_comes_back_if_the_new_one_cannot_take_its_name(tmp_path, monkeypatch):
    target, replace, calls = tmp_path / "model", os.replace, []
    target.mkdir()
    (target / "old").touch()

    def failing(source, goal):
        calls.append(goal)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(source, goal)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(KeyboardInterrupt), replacing(target) as path:
        path.mkdir()
    assert [file.name for file in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "full"), RuntimeError("write: No space left on device (os error 28)")],
)
def test_a_full_disk_is_told_by_name_with_the_remedy(tmp_path, error):
    with pytest.raises(OSError, match="the disk is full, so .*a.bin is not written: free") as told:
        with replacing(tmp_path / "a.bin"):
            raise error
    assert told.value.errno == errno.ENOSPC


def test_a_place_that_cannot_be_written_is_told_by_name(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/a.bin cannot be written: "):
        with replacing(tmp_path / "file" / "a.bin"):
            pass


def test_what_is_durable_is_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, r=real, n=name: calls.append(n) or r(*a))
    with replacing(tmp_path / "a", durable=True) as path:
        path.touch()
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder's list of names


def test_a_folder_that_is_not_empty_is_replaced_only_on_demand(tmp_path):
    target = tmp_path / "model"
    with replacing_folder(target) as folder:
        (folder / "old").touch()
    with pytest.raises(ValueError, match="exists already.*overwrite"), replacing_folder(target):
        pytest.fail("it was entered")
    with replacing_folder(target, overwrite=True) as folder:
        (folder / "new").touch()
    assert [file.name for file in target.iterdir()] == ["new"]


def test_an_empty_folder_may_be_filled_and_a_file_never_becomes_one(tmp_path):
    (tmp_path / "model").mkdir()
    with replacing_folder(tmp_path / "model") as folder:
        (folder / "new").touch()
    assert os.listdir(tmp_path / "model") == ["new"]
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="exists already: choose another name."):
        with replacing_folder(tmp_path / "file", overwrite=True):
            pytest.fail("it was entered")
