"""Checkpoints are complete or not there, hold plain data only, and the right one is found."""

import errno
import os
import random
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from jointdreamer.host.checkpoints import AtomicCheckpointIO, find_checkpoint, read_checkpoint
from jointdreamer.host.resume import run_folder


def checkpoint(step, **more):
    return {"state_dict": {"w": torch.full((100,), step)}, "epoch": 0, "global_step": step} | more


@pytest.fixture
def io():
    return AtomicCheckpointIO()


def test_what_is_saved_is_loaded(io, tmp_path):
    path = tmp_path / "ckpts" / "last.ckpt"
    io.save_checkpoint(checkpoint(7), path)
    loaded = io.load_checkpoint(path)
    assert loaded["global_step"] == 7 and torch.equal(
        loaded["state_dict"]["w"], torch.full((100,), 7)
    )
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
    io.remove_checkpoint(path)
    assert not path.exists()


def test_omegaconf_containers_become_plain(io, tmp_path):
    betas = OmegaConf.create([0.9, 0.99])
    state = [{"param_groups": [{"betas": betas, "name": "geometry"}]}]
    io.save_checkpoint(checkpoint(1, optimizer_states=state), tmp_path / "a.ckpt")
    loaded = io.load_checkpoint(tmp_path / "a.ckpt")["optimizer_states"]
    assert loaded == [{"param_groups": [{"betas": [0.9, 0.99], "name": "geometry"}]}]


def test_pickled_code_is_never_run(io, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    torch.save(checkpoint(1, extra=Evil()), tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a\.ckpt' cannot be read"):
        io.load_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    assert not (tmp_path / "evil").exists()


def test_what_is_no_plain_data_is_named_and_not_called_damaged(tmp_path):
    torch.save(checkpoint(1, betas=OmegaConf.create([0.9, 0.99])), tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a\.ckpt' cannot be read: it holds omegaconf") as told:
        read_checkpoint(tmp_path / "a.ckpt")
    assert "damaged" not in str(told.value) and "weights_only=False" in str(told.value)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failure_while_saving_leaves_the_older_checkpoint(io, tmp_path, monkeypatch, failing):
    path = tmp_path / "last.ckpt"
    io.save_checkpoint(checkpoint(1), path)

    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match=f"the disk is full, so {path} is not written: free some"):
        io.save_checkpoint(checkpoint(2), path)
    monkeypatch.undo()
    assert read_checkpoint(path)["global_step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def truncate(path, share):
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: int(len(data) * share)])


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_checkpoint_is_told_by_name(io, tmp_path, share, whole):
    path = tmp_path / "last.ckpt"
    io.save_checkpoint(checkpoint(1), path)
    truncate(path, share)
    with pytest.raises(ValueError, match=r"last\.ckpt' cannot be read: it is truncated.*resume="):
        read_checkpoint(path, whole=whole)


def test_no_flipped_bit_changes_what_is_read(io, tmp_path):
    path = tmp_path / "last.ckpt"
    io.save_checkpoint(checkpoint(1, note="abc", lr=[0.1, 2.0]), path)
    data, wanted = path.read_bytes(), repr(read_checkpoint(path))
    refused = 0
    for bit in random.Random(0).sample(range(8 * len(data)), 400):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            assert repr(read_checkpoint(path)) == wanted, f"bit {bit}"  # one that nobody reads
        except ValueError as error:
            assert "last.ckpt'" in str(error) and "resume=" in str(error)
            refused += 1
    assert refused > 150


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_of_others_are_read(tmp_path, zipped):
    torch.save(checkpoint(3), tmp_path / "a.ckpt", _use_new_zipfile_serialization=zipped)
    assert find_checkpoint(str(tmp_path)) == str(tmp_path / "a.ckpt")
    assert read_checkpoint(tmp_path / "a.ckpt")["global_step"] == 3


def test_other_files_are_told_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ckpt' does not exist: check resume="):
        read_checkpoint(tmp_path / "nowhere.ckpt")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(ValueError, match=r"text\.ckpt' cannot be read"):
        read_checkpoint(tmp_path / "text.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(ValueError, match=r"list\.ckpt' is no checkpoint of a training run"):
        read_checkpoint(tmp_path / "list.ckpt")


@pytest.fixture
def run(io, tmp_path):
    folder = tmp_path / "run" / "ckpts"
    for step, name in ((5, "epoch=0-step=5"), (15, "epoch=0-step=15"), (10, "epoch=0-step=10")):
        io.save_checkpoint(checkpoint(step), folder / f"{name}.ckpt")
    return folder.parent


def test_a_folder_means_its_newest_checkpoint(run):
    assert find_checkpoint(str(run)).endswith("ckpts/epoch=0-step=15.ckpt")
    assert find_checkpoint(str(run / "ckpts")).endswith("ckpts/epoch=0-step=15.ckpt")
    named = str(run / "ckpts" / "epoch=0-step=5.ckpt")
    assert find_checkpoint(named) == named


def test_of_two_at_the_same_step_the_later_file_counts(run, io):
    io.save_checkpoint(checkpoint(15), run / "ckpts" / "last.ckpt")
    os.utime(run / "ckpts" / "epoch=0-step=15.ckpt", (1, 1))
    assert find_checkpoint(str(run)).endswith("last.ckpt")


def test_incomplete_checkpoints_are_passed_over(run):
    truncate(run / "ckpts" / "epoch=0-step=15.ckpt", 0.7)
    (run / "ckpts" / ".last.ckpt.tmp").write_bytes(b"half")
    with pytest.warns(UserWarning, match=r"Passing over .*step=15"):
        assert find_checkpoint(str(run)).endswith("step=10.ckpt")


def test_a_folder_without_checkpoints_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no complete checkpoint.*train first"):
        find_checkpoint(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        find_checkpoint(str(tmp_path / "nowhere"))


def test_the_run_of_a_checkpoint_is_the_folder_above_ckpts(run, tmp_path, monkeypatch):
    for resume in (run, run / "ckpts", run / "ckpts" / "epoch=0-step=5.ckpt"):
        assert run_folder(str(resume)) == run
    assert run_folder("moved/last.ckpt") is None and run_folder(str(tmp_path)) is None
    monkeypatch.chdir(run)
    assert run_folder("ckpts/last.ckpt") == run_folder(".") == run
