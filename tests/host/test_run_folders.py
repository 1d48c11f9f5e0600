"""What a run leaves in its folder is its own, whole, told of, and finite."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.toy_run import ToySystem, write_config
from omegaconf import OmegaConf
from PIL import Image
from pytorch_lightning.trainer.states import RunningStage
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from jointdreamer.host import ownership, session
from jointdreamer.host.ending import Ending
from jointdreamer.host.errors import is_out_of_memory, reported
from jointdreamer.host.launcher import main, run
from jointdreamer.host.ownership import FolderTakenError, locked, owned
from jointdreamer.runs import RECORD, turntable

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(tmp_path):
    return str(write_config(tmp_path / "toy.yaml"))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "outputs" / "toy" / "run"


def train(config, *more):
    return main(["--config", config, "--train", *more])


# whose a folder is


def test_a_second_run_of_the_same_name_is_refused_and_changes_nothing(config, folder, capsys):
    assert train(config) == 0
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert train(config, "seed=4") == 2
    error = capsys.readouterr().err
    assert str(folder) in error and f"resume={folder}" in error and "tag=NAME" in error
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert {k: v for k, v in after.items() if k.name != ownership.LOCK}.items() <= before.items()


@pytest.mark.parametrize("remedy", ["tag=other", "resume"])
def test_both_remedies_work(config, folder, remedy):
    assert train(config) == 0
    assert train(config, f"resume={folder}" if remedy == "resume" else remedy) == 0


def test_runs_of_one_second_get_folders_of_their_own(config, tmp_path):
    for _ in range(2):
        assert train(config, "use_timestamp=true", "trainer.max_steps=1") == 0
    assert len(list((tmp_path / "outputs" / "toy").glob("run@*"))) == 2


def test_a_folder_is_written_by_one_process_at_a_time(tmp_path):
    script = (
        "import sys; from pathlib import Path; from jointdreamer.host.ownership import locked\n"
        "with locked(Path(sys.argv[1])): print('mine', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    other = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "mine\n"
    with pytest.raises(FolderTakenError, match="another process is at"), locked(tmp_path / "run"):
        pass
    other.kill()  # leaves the file, not the lock
    other.communicate()
    with locked(tmp_path / "run"):
        pass


def test_what_a_killed_process_left_half_written_is_removed_by_the_next(tmp_path):
    folder = tmp_path / "run"
    for place in (".save.new", "ckpts/.last.ckpt.k2j1", "save/.it20-test.mp4.x"):
        (folder / place).mkdir(parents=True)
    (folder / "ckpts" / "last.ckpt").touch()
    with owned(folder, goes_on=True):
        assert not list((folder / "ckpts").glob(".*")) + list((folder / "save").glob(".*"))
        assert (folder / "ckpts" / "last.ckpt").exists() and not (folder / ".save.new").exists()


def test_a_start_that_failed_leaves_nothing(config, folder, capsys):
    assert train(config, "system.fail_at_step=0") == 2
    assert not folder.exists() and "fail_at_step" in capsys.readouterr().err
    assert train(config) == 0


# what is in it


def test_a_second_test_leaves_no_frame_of_the_first(tmp_path, config, folder, monkeypatch):
    views = [6]

    def save(system, batch, batch_idx):
        for index in range(views[0]):
            Path(system.get_save_path(f"it20-test/{index}.png")).touch()

    monkeypatch.setattr(ToySystem, "test_step", save)
    assert train(config) == 0
    frames = folder / "save" / "it20-test"
    assert len(list(frames.glob("*.png"))) == 6
    views[0] = 3
    run(["--test", f"resume={folder}"])
    assert len(list(frames.glob("*.png"))) == 3
    assert json.loads((frames / RECORD).read_text())["step"] == 20
    assert not (folder / ".save.new").exists()


def test_a_test_that_fails_leaves_the_older_one(config, folder, monkeypatch):
    def save(system, batch, batch_idx):
        Path(system.get_save_path("it20-test/0.png")).write_text("old")

    monkeypatch.setattr(ToySystem, "test_step", save)
    assert train(config) == 0

    def fail(system, batch, batch_idx):
        Path(system.get_save_path("it20-test/0.png")).write_text("new")
        raise ValueError("no more")

    monkeypatch.setattr(ToySystem, "test_step", fail)
    assert main(["--test", f"resume={folder}"]) == 2
    assert (folder / "save" / "it20-test" / "0.png").read_text() == "old"
    assert not (folder / ".save.new").exists()


@pytest.mark.parametrize("azimuths", [[0.0, 90.0, 180.0], [10.0, 190.0, 370.0]])
def test_azimuths_are_those_of_the_record(tmp_path, azimuths):
    for index in range(3):
        Image.fromarray(np.zeros((4, 8, 3), np.uint8)).save(tmp_path / f"{index}.png")
    assert turntable(tmp_path).azimuths_deg == [0, 180, 360]
    record = {"azimuth_deg": azimuths, "width": 8, "height": 4}
    (tmp_path / RECORD).write_text(json.dumps(record))
    found = turntable(tmp_path)
    assert found.azimuths_deg == azimuths and found.aspect == 2
    assert found.closes == (azimuths[-1] == 370)
    (tmp_path / "2.png").unlink()
    with pytest.raises(ValueError, match="2 frames, but record.json tells of 3"):
        turntable(tmp_path)


# what is not finite


@pytest.mark.parametrize(
    ("where", "named"),
    [("loss", "the loss is not finite"), ("weights", "the weights layer.weight")],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_training_stops_at_the_step_and_keeps_the_last_good_checkpoint(
    config, folder, monkeypatch, capsys, where, named, value
):
    step = ToySystem.training_step

    def spoilt(system, batch, batch_idx):
        out = step(system, batch, batch_idx)
        if system.true_global_step == 12:
            if where == "loss":
                out["loss"] = out["loss"] * value
            else:
                system.layer.weight.data[0, 0] = value
        return out

    monkeypatch.setattr(ToySystem, "training_step", spoilt)
    assert train(config, "trainer.precision=32") == 2
    assert f"step 12: {named}" in capsys.readouterr().err
    ckpt = torch.load(folder / "ckpts" / "last.ckpt", weights_only=True)
    assert ckpt["global_step"] == 10
    assert all(tensor.isfinite().all() for tensor in ckpt["state_dict"].values())


def test_weights_that_are_not_finite_are_not_resumed_from(config, folder, capsys):
    assert train(config) == 0
    last = folder / "ckpts" / "last.ckpt"
    ckpt = torch.load(last, weights_only=True)
    ckpt["state_dict"]["layer.bias"][0] = float("nan")
    torch.save(ckpt, last)
    assert train(config, f"resume={last}", "trainer.max_steps=25") == 2
    assert "layer.bias are not finite" in capsys.readouterr().err
    assert train(config, f"resume={folder}", "trainer.max_steps=25") == 0  # from the one before


@pytest.mark.parametrize("part", ["weights", "momentum", "numbers"])
def test_a_flipped_bit_is_noticed(config, folder, capsys, part):
    assert train(config) == 0
    last = folder / "ckpts" / "last.ckpt"
    ckpt = torch.load(last, weights_only=True)
    wanted = {
        "weights": ckpt["state_dict"]["layer.weight"].numpy().tobytes(),
        "momentum": ckpt["optimizer_states"][0]["state"][0]["exp_avg"].numpy().tobytes(),
        "numbers": b"global_step",
    }
    data = bytearray(last.read_bytes())
    data[data.index(wanted[part])] ^= 1
    last.write_bytes(data)
    assert train(config, f"resume={last}", "trainer.max_steps=25") == 2
    error = capsys.readouterr().err
    assert str(last) in error and "is not as it was saved" in error
    assert train(config, f"resume={folder}", "trainer.max_steps=25") == 0  # from the one before


# where there is no room


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full disk to write to")
@pytest.mark.parametrize("through", ["write_text", "print", "csv", "numpy"])
def test_a_full_disk_is_told_with_the_file_whoever_writes_it(capsys, through):
    def write():
        if through == "write_text":
            Path("/dev/full").write_text("x")
            return
        with open("/dev/full", "wb" if through == "numpy" else "w") as file:
            if through == "print":
                print("x", file=file, flush=True)
            elif through == "csv":
                csv.writer(file).writerows([["x"] * 1000] * 100)
            else:
                np.save(file, np.zeros(10000))

    with reported(verbose=False) as outcome:
        write()
    told = "error: the disk is full, so /dev/full is not written: free some room and do it again\n"
    assert outcome.code == 2 and capsys.readouterr().err == told


# how it ends


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_too_little_memory_is_one_line_with_keys_and_the_way_on(
    config, folder, monkeypatch, capsys, error
):
    step = ToySystem.training_step

    def failing(system, batch, batch_idx):
        if system.true_global_step == 12:
            raise error
        return step(system, batch, batch_idx)

    monkeypatch.setattr(ToySystem, "training_step", failing)
    assert is_out_of_memory(error) and train(config) == 2
    told = capsys.readouterr().err
    assert "out of memory at step 12" in told and told.count("error:") == 1
    assert list(folder.glob("ckpts/*step=10.ckpt"))
    assert f"The last checkpoint is {folder / 'ckpts' / 'last.ckpt'}." in told


@pytest.mark.parametrize(
    ("began", "named"),
    [
        (False, "before the first step: choose smaller .*guidance.*, data.width=64"),
        (True, "step 3"),
    ],
)
def test_too_little_memory_names_what_takes_it_at_that_time(began, named):
    ending, system = Ending(), SimpleNamespace(true_global_step=3)
    ending.began = began
    stage = SimpleNamespace(stage=RunningStage.TRAINING)
    ending.on_exception(SimpleNamespace(state=stage, training=True), system, MemoryError())
    guidance = {"pretrained_model_name_or_path": "someone/model"}
    cfg = OmegaConf.create({"data": {"width": 64}, "system": {"guidance": guidance}})
    told = ending.out_of_memory(cfg)
    assert re.search(named, told) and "data.width=64" in told
    assert ("someone/model" in told) == (not began)


def test_too_little_memory_names_the_keys_that_save_some():
    def told(renderer_type="nerf-volume-renderer", **guidance):
        system = {"guidance_type": "jsd-guidance", "guidance": guidance}
        system["renderer_type"] = renderer_type
        return Ending().out_of_memory(OmegaConf.create({"system": system}))

    assert "set system.guidance.memory=low, or choose smaller" in told()
    chunks = "set system.guidance.encode_chunk=1 system.render_chunk=8192, or"
    assert chunks in told(memory="low")
    others = told("jointdreamer-gaussian-renderer", memory="low")
    assert "encode_chunk=1, or" in others and "render_chunk" not in others


@pytest.mark.parametrize(
    "text",
    [
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer",
        "NCCL error in: x.cpp:1: remote process exited or there was a network error",
    ],
)
def test_a_device_that_is_lost_is_one_line_of_the_others(config, monkeypatch, capsys, text):
    def failing(system, batch, batch_idx):
        raise RuntimeError(text)

    monkeypatch.setattr(ToySystem, "training_step", failing)
    assert train(config) == 2
    assert "error: the process of another device has ended" in capsys.readouterr().err


@pytest.mark.parametrize("rank", [0, 1])
def test_one_device_tells_of_the_ending(monkeypatch, capfd, rank):
    monkeypatch.setattr(rank_zero_only, "rank", rank)
    ending = Ending()
    ending._trains = True
    with ending.listening():
        signal.raise_signal(signal.SIGINT)
    assert capfd.readouterr().err.count("once more to end at once") == 1 - rank


@pytest.mark.parametrize("tag", ["a bear", "it's no. 5 #3, a=b", "[5]"])
def test_the_hint_works_as_printed(config, tmp_path, monkeypatch, tag):
    said = []
    monkeypatch.setattr(session, "rank_zero_info", said.append)
    train_step = ToySystem.training_step

    def interrupted(system, batch, batch_idx):
        if system.true_global_step == 12:
            signal.raise_signal(signal.SIGTERM)
        return train_step(system, batch, batch_idx)

    monkeypatch.setattr(ToySystem, "training_step", interrupted)
    root = tmp_path / tag  # exp_root_dir is the user's own, whatever it is
    with pytest.raises(SystemExit) as ended:
        train(config, f"exp_root_dir={json.dumps(str(root))}")
    assert ended.value.code == 143
    monkeypatch.setattr(ToySystem, "training_step", train_step)
    (hint,) = [line.removeprefix("To go on: ") for line in said if line.startswith("To go on")]
    python, _, launcher, *arguments = shlex.split(hint)
    assert (python, launcher) == ("python", "jointdreamer.host.launcher")
    assert main(arguments) == 0
    ckpt = torch.load(root / "toy" / "run" / "ckpts" / "last.ckpt", weights_only=True)
    assert ckpt["global_step"] == 20


def test_a_second_signal_ends_it_at_once(tmp_path):
    script = (
        "import os, signal; from jointdreamer.host.ending import Ending\n"
        "with Ending().listening() as ending:\n"
        "    ending._trains = True\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('goes on', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('never')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGINT and done.stdout == "goes on\n"
    assert "once more to end at once" in done.stderr


def test_no_handler_of_a_run_outlives_it(config):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Ending().listening():
        pass
    assert train(config) == 0
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
