"""The launcher's command line and the GPUs it may see."""

import os
import re

import pytest
from omegaconf import OmegaConf

from jointdreamer.host.options import choose_gpus, parse_arguments


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("tag: t\ndata: {size: 1}\n")
    return str(path)


@pytest.mark.parametrize("action", ["train", "validate", "test", "export"])
def test_actions_flags_and_overrides_are_read(config, action):
    options = parse_arguments(
        ["--config", config, f"--{action}", "--gpu", "1", "data.size=2", "--verbose", "seed=3"]
    )
    assert (options.action, options.gpu, options.verbose) == (action, "1", True)
    assert options.overrides == {"data": {"size": 2}, "seed": 3}
    assert options.raw == {"tag": "t", "data": {"size": 2}, "seed": 3}


@pytest.mark.parametrize("flags", [[], ["--train", "--test"], ["--train", "--gpu"]])
def test_incomplete_command_lines_end_with_usage(config, flags, capsys):
    with pytest.raises(SystemExit) as end:
        parse_arguments(["--config", config, *flags])
    assert end.value.code == 2 and "usage: launch.py" in capsys.readouterr().err


@pytest.mark.parametrize("item", ["--trian", "resume", "=3", "-x=3"])
def test_what_is_no_override_is_told(config, item):
    with pytest.raises(ValueError, match=f"'{item}' is not understood.*key=value"):
        parse_arguments(["--config", config, "--train", item])


@pytest.mark.parametrize("item", ['tag="big" bear', "tag=bear #3", "data.size=[1", "tag=${a"])
def test_what_is_no_yaml_is_told_how_to_be_quoted(config, item):
    with pytest.raises(
        ValueError, match=rf"{re.escape(item)} cannot be read as YAML \(.*\)\. A text .* quotes"
    ):
        parse_arguments(["--config", config, "--train", item])


def test_config_files_that_are_none_are_told(tmp_path):
    (tmp_path / "c.yaml").write_text("- 1")
    with pytest.raises(ValueError, match=r"c\.yaml must hold `key: value` lines"):
        parse_arguments(["--config", str(tmp_path / "c.yaml"), "--train"])
    with pytest.raises(FileNotFoundError, match=r"--config nowhere\.yaml does not exist"):
        parse_arguments(["--config", "nowhere.yaml", "--train"])
    with pytest.raises(ValueError, match="--config is missing: .* or by resume=RUN a run"):
        parse_arguments(["--train"])


@pytest.fixture
def trained(tmp_path):
    """The folder of a run, as far as its config goes."""
    folder = tmp_path / "outputs" / "name" / "run@20240102-030405"
    (folder / "configs").mkdir(parents=True)
    (folder / "ckpts").mkdir()
    (folder / "configs" / "parsed.yaml").write_text(
        "{tag: run, timestamp: '@20240102-030405', data: {prompt: a bear, size: 4}, n_gpus: 2}"
    )
    return folder


def test_a_resumed_run_needs_no_config(trained):
    for resume in (trained, trained / "ckpts", trained / "ckpts" / "last.ckpt"):
        options = parse_arguments(["--test", f"resume={resume}", "data.size=5"])
        assert options.raw == {
            "tag": "run",
            "data": {"prompt": "a bear", "size": 5},
            "resume": str(resume),
        }


def test_what_a_config_lacks_is_taken_from_the_resumed_run(trained, tmp_path):
    (tmp_path / "c.yaml").write_text("tag: ${x:${data.prompt}}\ndata:\n  size: 1\n  prompt: ???")
    given = ["--config", str(tmp_path / "c.yaml"), "--train"]
    for resume, prompt in ((trained, "a bear"), (tmp_path, "???")):
        found = parse_arguments([*given, f"resume={resume}"]).raw
        expected = {"tag": "${x:${data.prompt}}", "data": {"prompt": prompt, "size": 1}}
        assert OmegaConf.to_container(found) == expected | {"resume": str(resume)}
    found = parse_arguments([*given, f"resume={trained}", "data.prompt=a cat"]).raw
    assert found.data.prompt == "a cat"


@pytest.mark.parametrize(
    "before, gpu, trainer, visible, count",
    [
        (None, None, {}, "0", 1),
        (None, "1,2", {}, "1,2", 2),
        ("3,4", "1", {}, "3,4", 2),
        ("", "1", {}, "", 1),
        (None, None, {"devices": 2}, None, 2),
        (None, None, {"devices": [1, 3]}, "1,3", 2),
        (None, None, {"devices": "1,3"}, "1,3", 2),
        (None, None, {"devices": "2"}, None, 2),
        ("0,1,2", None, {"devices": "auto"}, "0,1,2", 3),
        (None, "2", {"accelerator": "cpu"}, "", 1),
        (None, None, {"accelerator": "cpu", "devices": 2}, "", 2),
    ],
)
def test_gpus_are_limited_before_cuda_starts(monkeypatch, before, gpu, trainer, visible, count):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if before is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    assert choose_gpus(gpu, OmegaConf.create(trainer)) == count
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible


def test_all_gpus_are_counted_where_none_are_chosen(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    for devices in (-1, "-1", "auto"):
        assert choose_gpus(None, OmegaConf.create({"devices": devices})) == 8


@pytest.mark.parametrize("devices", [0, -2, [], "all", 1.5])
def test_devices_that_mean_nothing_are_told(devices):
    with pytest.raises(ValueError, match=r"trainer\.devices=.* is not understood: give a number"):
        choose_gpus(None, OmegaConf.create({"devices": devices}))
