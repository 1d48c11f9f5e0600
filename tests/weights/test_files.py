"""Weight files are read without running what they hold, and refused when damaged."""

import argparse
import hashlib
import os
import pickle
import sys
import tarfile

import numpy as np
import pytest
import torch
from helpers.originals import lightning_checkpoint
from safetensors.torch import save_file
from threestudio_jointdreamer.weights.files import read_weights, sha256_of

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.float16)}


class Call:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def save(path, content, **kwargs):
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path, **kwargs)
    return path


def assert_weights(read):
    assert read.keys() == WEIGHTS.keys()
    assert all(read[name].equal(tensor) for name, tensor in WEIGHTS.items())
    assert all(read[name].dtype == tensor.dtype for name, tensor in WEIGHTS.items())


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth", "w.ckpt", "w.bin", "W.CKPT"])
def test_every_format_gives_its_tensors(tmp_path, name):
    assert_weights(read_weights(save(tmp_path / name, WEIGHTS)))


def test_a_file_from_before_pytorch_1_6_is_read(tmp_path):
    file = save(tmp_path / "old.ckpt", WEIGHTS, _use_new_zipfile_serialization=False)
    assert_weights(read_weights(file))


@pytest.mark.parametrize("key", ["state_dict", "model", "teacher"])
def test_nested_weights_are_unwrapped(tmp_path, key):
    content = {key: WEIGHTS, "epoch": 3, "optimizer": {"lr": 0.1}}
    assert_weights(read_weights(save(tmp_path / "w.pt", content)))


def test_parameters_come_back_as_plain_tensors(tmp_path):
    file = save(tmp_path / "w.pt", {"a": torch.nn.Parameter(torch.ones(2))})
    read = read_weights(file)["a"]
    assert not isinstance(read, torch.nn.Parameter) and not read.requires_grad


def test_what_trainers_leave_behind_is_passed_over_without_being_imported(tmp_path, monkeypatch):
    content = lightning_checkpoint(WEIGHTS)
    content |= {"args": argparse.Namespace(lr=0.1), "means": np.arange(3.0)}
    file = save(tmp_path / "105000.ckpt", content)
    monkeypatch.setitem(sys.modules, "pytorch_lightning.callbacks.model_checkpoint", None)
    before = torch.serialization.get_safe_globals()
    assert_weights(read_weights(file))
    assert set(torch.serialization.get_safe_globals()) == set(before)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", ["raw.ckpt", "raw.bin"])
def test_a_pickle_that_calls_something_does_not_run(tmp_path, name, protocol):
    mark = tmp_path / "it-ran"
    file = tmp_path / name
    file.write_bytes(pickle.dumps(Call(os.system, f"touch {mark}"), protocol=protocol))
    with pytest.raises(ValueError, match=r"is refused: .*(posix|nt)\.system"):
        read_weights(file)
    assert not mark.exists()
    pickle.loads(file.read_bytes())  # the call itself works
    assert mark.exists()


@pytest.mark.parametrize(
    ("function", "named"), [(os.system, r"(posix|nt)\.system"), (eval, "eval"), (exec, "exec")]
)
def test_a_call_among_weights_does_not_run(tmp_path, function, named):
    mark = tmp_path / "it-ran"
    code = f"touch {mark}" if function is os.system else f"open({str(mark)!r}, 'w')"
    content = {"state_dict": WEIGHTS, "callbacks": Call(function, code)}
    file = save(tmp_path / "w.ckpt", content)
    with pytest.raises(ValueError, match=named) as refusal:
        read_weights(file)
    assert not mark.exists()
    assert "\n" not in str(refusal.value)


def test_a_call_in_a_tar_archive_does_not_run(tmp_path):
    mark = tmp_path / "it-ran"
    pickled = pickle.dumps(Call(os.mkdir, str(mark)), protocol=2)
    with tarfile.open(tmp_path / "old.pt", "w") as archive:  # all that PyTorch once looked for
        for name in ("storages", "tensors", "pickle"):
            (tmp_path / name).write_bytes(pickled)
            archive.add(tmp_path / name, name)
    with pytest.raises(ValueError, match="is refused: .*tar archive"):
        read_weights(tmp_path / "old.pt")
    assert not mark.exists()


def test_what_others_have_allowed_is_not_allowed_here(tmp_path):
    mark = tmp_path / "it-ran"
    file = save(tmp_path / "w.pt", {"state_dict": WEIGHTS, "x": Call(touch, str(mark))})
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([touch])
    try:
        with pytest.raises(ValueError, match="touch"):
            read_weights(file)
        assert touch in torch.serialization.get_safe_globals()
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
    assert not mark.exists()


def touch(path):
    open(path, "w").close()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "old.ckpt"])
@pytest.mark.parametrize("keep", [0, 5, 40, 0.5, 0.98])
def test_a_truncated_file_is_refused_in_one_line(tmp_path, name, keep):
    weights = {"a": torch.randn(100, 100), "b": torch.randn(50)}
    kwargs = {"_use_new_zipfile_serialization": False} if name.startswith("old") else {}
    file = save(tmp_path / name, weights, **kwargs)
    content = file.read_bytes()
    file.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(ValueError, match="truncated, corrupt or no weights file") as refusal:
        read_weights(file)
    assert str(file) in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html></html>" * 9, bytes(range(256)) * 9])
def test_a_file_of_something_else_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="truncated, corrupt or no weights file"):
        read_weights(tmp_path / name)


def test_a_git_lfs_pointer_is_called_one(tmp_path):
    (tmp_path / "w.ckpt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ValueError, match="git lfs pull"):
        read_weights(tmp_path / "w.ckpt")


def test_a_script_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "w.pt"))
    with pytest.raises(ValueError, match="is refused: .*TorchScript"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}, {"epoch": 3}, {1: torch.ones(1)}])
def test_a_file_without_weights_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match="holds no weights"):
        read_weights(save(tmp_path / "w.pt", content))


def test_a_missing_file_and_a_strange_name_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.pt"):
        read_weights(tmp_path / "nowhere.pt")
    (tmp_path / "w.onnx").touch()
    with pytest.raises(ValueError, match=r"expected one of \.safetensors"):
        read_weights(tmp_path / "w.onnx")


def test_the_hash_is_of_the_whole_file(tmp_path, monkeypatch):
    content = bytes(range(256)) * 100
    (tmp_path / "w").write_bytes(content)
    monkeypatch.setattr(f"{read_weights.__module__}.CHUNK", 999)
    assert sha256_of(tmp_path / "w") == hashlib.sha256(content).hexdigest()


def test_a_flipped_bit_among_the_tensors_is_found(tmp_path):
    file = save(tmp_path / "w.pt", {"a": torch.full((4096,), 1.0)})
    read_weights(file)  # an earlier look does not hide it
    content = bytearray(file.read_bytes())
    content[content.index(torch.full((64,), 1.0).numpy().tobytes()) + 4000] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="corrupt.*checksum of .*data/0 is wrong"):
        read_weights(file)
