"""launch.py as a user calls it, on the shipped configs."""

import subprocess
import sys
from pathlib import Path

import pytest

from jointdreamer.host.launcher import run

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "configs" / "tiny" / "jointdreamer.yaml"
PROMPT = "system.prompt_processor.prompt=a green bear"


def launch(folder, *argv):
    command = [sys.executable, str(ROOT / "launch.py"), *argv]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def test_help_names_the_actions_and_shows_an_override(tmp_path):
    shown = launch(tmp_path, "--help")
    assert shown.returncode == 0
    for word in ("--train", "--validate", "--test", "--export", "--gpu", "trainer.max_steps=100"):
        assert word in shown.stdout


def test_a_config_that_is_missing_or_no_yaml_ends_with_one_line_and_code_2(tmp_path):
    done = launch(tmp_path, "--config", "nowhere.yaml", "--train")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        "error: --config nowhere.yaml does not exist. Give a file, such as "
        "configs/tiny/jointdreamer.yaml.\n"
    )
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "c.yaml").write_text("a: [1")
    done = launch(tmp_path, "--config", "c.yaml", "--train")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: not valid YAML: ") and 'c.yaml", line 1' in done.stderr


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "key, close",
    [
        ("sytem", "system"),
        ("data.batch_sise", "batch_size"),
        ("system.geometri", "geometry"),
        ("system.geometry.densty_bias", "density_bias"),
        ("system.renderer.num_samples_per_rey", "num_samples_per_ray"),
        ("system.prompt_processor.promt", "prompt"),
        ("system.guidance.guidance_scal", "guidance_scale"),
        ("system.guidance.energy.recon_std_rescal", "recon_std_rescale"),
        ("system.exporter.fmmt", "fmt"),
        ("trainer.max_step", "max_steps"),
        ("checkpoint.save_lst", "save_last"),
    ],
)
def test_a_misspelt_key_anywhere_is_told_before_anything_is_made(folder, key, close):
    with pytest.raises(ValueError, match=f"^{key}: .* has no key .*did you mean .*'{close}'"):
        run(["--config", str(TINY), "--train", PROMPT, f"{key}=1"])
    assert list(folder.iterdir()) == []


def test_a_missing_prompt_is_told(folder):
    with pytest.raises(ValueError, match=r"^system\.prompt_processor\.prompt is required: add"):
        run(["--config", str(TINY), "--train"])
