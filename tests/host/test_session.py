"""Whole runs of a toy through the launcher: what they leave, where they go on, what they refuse."""

import csv
import json
import os
from pathlib import Path

import pytest
import torch
from helpers.toy_run import write_config
from omegaconf import OmegaConf

from jointdreamer.host import launcher as trainer
from jointdreamer.host import session
from jointdreamer.host.launcher import main, run

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def config(tmp_path):
    return str(write_config(tmp_path / "toy.yaml"))


def go(config, action, *overrides):
    return run(["--config", config, f"--{action}", *overrides])


def saved(result, pattern="*"):
    return sorted(path.name for path in Path(result["save_dir"]).glob(pattern))


def test_training_leaves_checkpoints_configs_logs_and_a_test(config, tmp_path):
    result = go(config, "train")
    trial = tmp_path / "outputs" / "toy" / "run"
    assert result["trial_dir"] == str(trial) and result["global_step"] == 20
    steps = [f"epoch=0-step={step}.ckpt" for step in (10, 15, 20, 5)]
    assert sorted(file.name for file in (trial / "ckpts").iterdir()) == [*steps, "last.ckpt"]
    assert torch.load(result["ckpt"], weights_only=True)["global_step"] == 20
    assert (trial / "configs" / "raw.yaml").read_text() == open(config).read()
    assert OmegaConf.load(trial / "configs" / "parsed.yaml").trial_dir == str(trial)
    assert OmegaConf.load(trial / "configs" / "parsed.yaml").trainer.precision == "16-mixed"
    rows = list(csv.DictReader(open(trial / "csv_logs" / "version_0" / "metrics.csv")))
    assert [int(row["step"]) for row in rows if row["train/loss"]] == list(range(20))
    assert any("lr-AdamW" in key for key in rows[0])
    assert list((trial / "tb_logs" / "version_0").glob("events*"))
    assert "python" in (trial / "cmd.txt").read_text()
    assert saved(result) == [
        *[f"it{step}-validation.json" for step in (12, 16)],
        "it20-test.json",
        "it20-validation.json",
        *[f"it{step}-validation.json" for step in (4, 8)],
    ]


def test_a_stamped_run_goes_on_in_its_own_folder(config, tmp_path):
    stamped = ["tag=a bear", "use_timestamp=true", "name=deep/er"]
    first = go(config, "train", *stamped, "trainer.max_steps=5")
    again = go(config, "train", f"resume={first['trial_dir']}")
    assert again["trial_dir"] == first["trial_dir"] and again["global_step"] == 20
    assert "a bear@20" in again["trial_dir"]
    logs = sorted(os.listdir(os.path.join(first["trial_dir"], "csv_logs")))
    assert logs == ["version_0", "version_1"]
    parsed = OmegaConf.load(os.path.join(first["trial_dir"], "configs", "parsed.yaml"))
    assert parsed.tag == "a bear" and parsed.timestamp.startswith("@20")
    assert len(open(os.path.join(first["trial_dir"], "cmd.txt")).readlines()) == 2


def test_a_checkpoint_may_be_taken_to_another_folder(config, tmp_path):
    first = go(config, "train", "trainer.max_steps=5")
    other = go(config, "train", f"resume={first['ckpt']}", "tag=other", "trainer.max_steps=6")
    assert other["trial_dir"] == str(tmp_path / "outputs" / "toy" / "other")
    moved = tmp_path / "moved.ckpt"
    os.rename(first["ckpt"], moved)
    stray = go(config, "train", f"resume={moved}", "trainer.max_steps=6", "tag=stray")
    assert stray["global_step"] == 6


def test_resume_alone_takes_the_config_of_the_run(config, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(session, "rank_zero_info", said.append)
    prompt = "system.prompt_processor.prompt"
    changes = {"tag": f"${{{prompt}}}", "system": {"prompt_processor": {"prompt": "???"}}}
    write_config(tmp_path / "toy.yaml", **changes)
    first = go(config, "train", f"{prompt}=a bear", "trainer.max_steps=5", "use_timestamp=true")
    os.remove(config)
    again = run(["--train", f"resume={first['trial_dir']}", "trainer.max_steps=6"])
    assert again["trial_dir"] == first["trial_dir"] and again["global_step"] == 6
    run(["--test", f"resume={again['ckpt']}"])
    assert "it6-test.json" in saved(first) and not any("prompt" in line for line in said)
    run(["--test", f"resume={again['ckpt']}", f"{prompt}=a cat", "data.size=4", "seed=5"])
    told = f"Other settings than the run's: seed=5 (was 3), {prompt}='a cat' (was 'a bear')."
    assert told in said


def test_a_finished_run_can_be_resumed_and_is_tested_again(config):
    first = go(config, "train", "trainer.max_steps=5", "trainer.num_sanity_val_steps=1")
    assert "it0-validation.json" in saved(first)  # the sanity check, which runs if asked for
    os.remove(os.path.join(first["save_dir"], "it5-test.json"))
    again = go(config, "train", "trainer.max_steps=5", f"resume={first['trial_dir']}")
    assert again["global_step"] == 5 and "it5-test.json" in saved(again)


def test_a_checkpoint_is_validated_tested_and_exported_at_its_own_step(config):
    first = go(config, "train")
    ckpt = os.path.join(first["trial_dir"], "ckpts", "epoch=0-step=10.ckpt")
    for action in ("validate", "test", "export"):
        result = go(config, action, f"resume={ckpt}")
        assert result["trial_dir"] == first["trial_dir"] and result["global_step"] == 10
    assert {"it10-validation.json", "it10-test.json", "it10-export"} <= set(saved(first))
    assert json.load(open(os.path.join(first["save_dir"], "it10-export", "model.json"))) == {}
    assert sorted(os.listdir(os.path.join(first["trial_dir"], "csv_logs"))) == ["version_0"]


@pytest.mark.parametrize("action", ["validate", "test", "export"])
def test_nothing_is_evaluated_before_training(config, action, tmp_path):
    with pytest.raises(ValueError, match=rf"--{action}: nothing trained yet.*pass resume="):
        go(config, action)
    assert not (tmp_path / "outputs").exists()
    with pytest.raises(FileNotFoundError, match="does not exist: check resume="):
        go(config, action, "resume=nowhere.ckpt")


def test_a_truncated_checkpoint_is_told_and_its_folder_still_works(config):
    first = go(config, "train")
    last = os.path.join(first["trial_dir"], "ckpts", "last.ckpt")
    with open(last, "r+b") as file:
        file.truncate(1000)
    with pytest.raises(ValueError, match=r"last\.ckpt' cannot be read: it is truncated"):
        go(config, "train", f"resume={last}")
    again = go(config, "test", f"resume={first['trial_dir']}")
    assert again["global_step"] == 20 and "step=20" in again["ckpt"]


def test_a_run_whose_folder_cannot_be_made_is_told(config, capsys):
    assert main(["--config", config, "--train", f"exp_root_dir={'x' * 300}"]) == 2
    assert "error: File name too long: '" in capsys.readouterr().err


def test_errors_of_libraries_about_settings_are_plain_errors(config):
    with pytest.raises(ValueError, match="name.*nowhere") as error:
        go(config, "train", "name=${nowhere}")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="trainer or checkpoint settings: .*fast_dev_run"):
        go(config, "train", "trainer.fast_dev_run=-1")
    with pytest.raises(ValueError, match="loggers or trainer need: .*torch_xla"):
        go(config, "train", "trainer.profiler=xla")


def test_without_a_gpu_one_line_says_that_it_runs_in_float32(config, monkeypatch):
    said = []
    monkeypatch.setattr(session, "rank_zero_info", said.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    go(config, "train", "trainer.max_steps=1")
    assert said == ["No GPU here: running on the CPU, with precision 32-true and not 16-mixed."]
    changes = ["trainer.precision=bf16-mixed", "trainer.accelerator=gpu", "tag=bf16"]
    go(config, "train", "trainer.max_steps=1", *changes)
    assert said[1:] == ["No GPU here: running on the CPU."]


def test_a_mistake_ends_the_program_with_one_line_and_code_2(config, capsys):
    argv = ["--config", config, "--train", "system.fail_at_step=3"]
    assert main(argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "error: system.fail_at_step: the toy was told to fail."
    assert not any("Traceback" in line for line in lines)
    assert main([*argv, "--verbose"]) == 2
    assert "Traceback" in capsys.readouterr().err
    assert main(["--config", config, "--train", "trainer.max_steps=1", "tag=fine"]) == 0


def test_a_bug_is_not_taken_for_a_mistake(monkeypatch):
    monkeypatch.setattr(trainer, "run", lambda argv: {}["bug"])
    with pytest.raises(KeyError):
        main([])


def test_a_full_disk_ends_the_program_with_one_line(config, capsys, monkeypatch, tmp_path):
    sync, calls, said = os.fsync, [], []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 4:  # two for each checkpoint, which alone uses it; two at each saving
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(session, "rank_zero_info", said.append)
    monkeypatch.setattr("os.fsync", full)
    assert main(["--config", config, "--train"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: the disk is full, so ") and "free some room" in last
    assert said[-1].endswith(f"--train resume={tmp_path}/outputs/toy/run")


def test_a_disk_that_is_full_for_another_file_is_told_too(config, capsys, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device", "metrics.csv")

    monkeypatch.setattr(session, "execute", full)
    assert main(["--config", config, "--train"]) == 2
    told = "error: the disk is full, so metrics.csv is not written: free some room and do it again"
    assert capsys.readouterr().err.splitlines()[-1] == told


def test_a_folder_below_the_current_one_stays_relative(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    go(config, "train", "trainer.max_steps=5", "exp_root_dir=outputs")
    again = go(config, "train", "trainer.max_steps=6", "resume=outputs/toy/run")
    assert again["trial_dir"] == os.path.join("outputs", "toy", "run")
    monkeypatch.chdir(tmp_path / "outputs" / "toy" / "run")
    inside = go(config, "test", "resume=ckpts/last.ckpt")
    assert os.path.samefile(inside["trial_dir"], ".") and "it5-test.json" in saved(inside)
