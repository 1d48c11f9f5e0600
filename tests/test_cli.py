"""The `jointdreamer` command, with a host that leaves files and once with the real one."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.finished_runs import write_run
from helpers.tiny_run import write_tiny_config
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from jointdreamer.cli import COMMANDS, main

PROMPT = "a blue cat wearing a red hat"


class FakeHost:
    """Answers a command line with the files a real run would leave, and remembers it."""

    def __init__(self, fmt: str = "glb") -> None:
        self.calls: list[list[str]] = []
        self.fmt = fmt

    def __call__(self, argv: list[str]) -> dict:
        self.calls.append(argv)
        given = self.given(-1)
        folder = Path(given.exp_root_dir, given.name, given.tag)
        save = folder / "save"
        for sub in (folder / "ckpts", save / "it8-export", folder / "csv_logs" / "version_0"):
            sub.mkdir(parents=True, exist_ok=True)
        (folder / "ckpts" / "last.ckpt").touch()
        measured = {"peak_host_gib": 1.5, "peak_gpu_gib": None, "seconds": 3, "device": "cpu"}
        (folder / "metrics.json").write_text(json.dumps(measured))
        (folder / "csv_logs" / "version_0" / "metrics.csv").write_text(
            "step,train/loss_sds\n0,2.0\n1,1.0"
        )
        if not (folder / "configs").is_dir():
            prompt = given.system.prompt_processor.prompt
            write_run(folder, prompt, [np.zeros((8, 8, 3), np.uint8)] * 9, step=8)
        if "--train" in argv:
            (save / "it8-test.mp4").write_bytes(b"mp4")
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(save / "it8-test-contact-sheet.png")
        else:
            (save / "it8-export" / f"model.{self.fmt}").write_bytes(b"mesh")
        return {"trial_dir": str(folder)}

    def given(self, call: int) -> DictConfig:
        """The overrides of a call, read as a host reads them."""
        return OmegaConf.from_cli([item for item in self.calls[call] if "=" in item])


@pytest.fixture
def demo(tmp_path, monkeypatch):
    config = tmp_path / "config.yaml"
    config.write_text("name: x\n")

    def start(*more: str, prompt: str = PROMPT, host=None):
        host = host or FakeHost()
        monkeypatch.setattr("jointdreamer.host.launcher.run", host)
        out = ["--config", str(config), "--out", str(tmp_path / "out")]
        return main(["demo", "--prompt", prompt, *out, *more]), host

    return start


def test_demo_trains_exports_and_says_where_everything_is(demo, tmp_path, capsys):
    status, host = demo("trainer.max_steps=8")
    folder = tmp_path / "out" / "demo" / "a_blue_cat_wearing_a_red_hat"
    assert status == 0
    assert ["--train" in host.calls[0], "--export" in host.calls[1]] == [True, True]
    assert host.given(0).trainer.max_steps == 8
    assert host.given(1).resume == str(folder / "ckpts" / "last.ckpt")
    printed = capsys.readouterr().out
    results = ("turntable.mp4", "contact_sheet.png", "asset.glb", "curves.png", "index.html")
    for name in results:
        assert (folder / name).stat().st_size > 0 and str(folder / name) in printed
    assert "seconds, peak memory 1.5 GiB" in printed


def test_a_demo_of_very_few_steps_has_no_curves(demo, tmp_path, capsys):
    class Unlogged(FakeHost):
        def __call__(self, argv):
            result = super().__call__(argv)
            Path(result["trial_dir"], "csv_logs", "version_0", "metrics.csv").unlink()
            return result

    assert demo("trainer.max_steps=2", host=Unlogged())[0] == 0
    printed = capsys.readouterr().out
    assert "asset.glb" in printed and "curves" not in printed


@pytest.mark.parametrize(
    "prompt", ['a "blue" cat, 5=x', "null", "a: b", "[cat]", "it's {odd}", "ein grüner Bär 🐻"]
)
def test_any_prompt_arrives_as_it_was_typed(demo, prompt):
    _, host = demo(prompt=prompt)
    assert host.given(0).system.prompt_processor.prompt == prompt


def test_demo_continues_where_it_was_interrupted(demo, tmp_path, capsys):
    demo()
    _, host = demo()
    assert host.given(0).resume.endswith("last.ckpt")
    assert "Continuing" in capsys.readouterr().out


def test_other_settings_in_the_same_folder_are_refused_unless_fresh(demo, capsys):
    demo()
    status, host = demo("seed=4")
    assert status == 2 and host.calls == []
    message = capsys.readouterr().err
    assert message.startswith("error: ") and "--fresh" in message and message.count("\n") == 1
    status, host = demo("--fresh", "seed=4")
    assert status == 0 and "resume" not in host.given(0)


def test_a_start_that_fails_leaves_nothing_and_blocks_nothing(demo, tmp_path, capsys):
    class Failing(FakeHost):
        def __call__(self, argv):
            super().__call__(argv)
            (tmp_path / "out/demo" / self.given(-1).tag / "ckpts" / "last.ckpt").unlink()
            raise ValueError("data.n_view=3 is wrong: use 2.")

    assert demo("data.n_view=3", host=Failing())[0] == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: data.n_view=3 is wrong: use 2."
    assert list((tmp_path / "out" / "demo").iterdir()) == []
    # a start that was killed
    folder = tmp_path / "out" / "demo" / "a_blue_cat_wearing_a_red_hat"
    folder.mkdir()
    (folder / "demo.json").write_text("{}")
    assert demo("data.n_view=2")[0] == 0
    # one that failed later has something to go on from
    with pytest.raises(KeyError):
        demo("data.n_view=2", host=lambda argv: {}["bug"])
    assert (folder / "ckpts" / "last.ckpt").is_file()


def test_prompts_with_the_same_beginning_have_their_own_folders(demo, tmp_path):
    for end in ("hat", "backpack"):
        demo(prompt="a very " * 20 + end)
    assert len(list((tmp_path / "out" / "demo").iterdir())) == 2


def test_mistakes_are_one_line_and_status_2(demo, capsys):
    for status, _ in (
        demo(prompt="?!"),
        demo("--config", "nowhere.yaml"),
        demo(host=FakeHost("obj")),
    ):
        assert status == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith("error: ") for line in lines)


def test_arguments_that_nobody_reads_are_refused(demo, capsys):
    with pytest.raises(SystemExit) as stopped:
        demo("--frsh")
    assert stopped.value.code == 2 and "--frsh" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["curves", "folder", "a=1"])


def test_curves_and_compare_write_pictures(tmp_path, capsys):
    run = tmp_path / "run"
    (run / "csv_logs" / "version_0").mkdir(parents=True)
    (run / "csv_logs" / "version_0" / "metrics.csv").write_text("step,train/loss_sds\n0,1.0")
    frames = run / "save" / "it1-test"
    frames.mkdir(parents=True)
    for index in range(9):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(frames / f"{index}.png")
    sheet = tmp_path / "sheet.png"
    assert main(["curves", str(run)]) == 0
    assert main(["compare", str(run), str(run), "--out", str(sheet), "--labels", "a", "b"]) == 0
    printed = capsys.readouterr().out.split()
    assert printed == [str(run / "curves.png"), str(sheet)] and sheet.stat().st_size > 0


def test_demo_with_the_real_host_from_prompt_to_mesh(tmp_path, sd_folder, mv_folder):
    config = write_tiny_config(tmp_path / "config.yaml", sd_folder, mv_folder)
    arguments = ["demo", "--prompt", "a red bear", "--config", str(config), "--out", str(tmp_path)]
    assert main([*arguments, "trainer.max_steps=2"]) == 0
    folder = tmp_path / "demo" / "a_red_bear"
    for name in ("turntable.mp4", "contact_sheet.png", "asset.glb", "curves.png"):
        assert (folder / name).stat().st_size > 0
    assert (folder / "asset.glb").read_bytes()[:4] == b"glTF"
    assert json.loads((folder / "demo.json").read_text())["prompt"] == "a red bear"


def test_every_command_shows_its_help_without_what_only_unix_has(monkeypatch, capsys):
    for module in ("fcntl", "resource"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delattr("os.sched_getaffinity")
    for command in COMMANDS:
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0
        assert f"usage: jointdreamer {command}" in capsys.readouterr().out
