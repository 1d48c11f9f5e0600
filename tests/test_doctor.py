"""`jointdreamer doctor`: what it says, and its exit status."""

import json
import re
import shutil
from pathlib import Path

import huggingface_hub.constants as constants
import pytest
from helpers.hub_server import serve_hub
from helpers.tiny_run import write_tiny_config

from jointdreamer import doctor as module
from jointdreamer.cli import main
from jointdreamer.testing.random_priors import build_sd3, build_sdxl

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "configs" / "tiny" / "jointdreamer.yaml"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def no_checkout(monkeypatch):
    """Whatever the tests run in: trying what a real threestudio imports takes long."""
    monkeypatch.delenv("THREESTUDIO_ROOT", raising=False)


@pytest.fixture
def doctor(capsys):
    def run(*arguments) -> tuple[int, dict]:
        status = main(["doctor", *map(str, arguments), "--json"])
        return status, json.loads(capsys.readouterr().out or "{}")

    return run


@pytest.fixture
def folder(sd_folder, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(sd_folder, tmp_path / "model")


@pytest.fixture
def config(folder, mv_folder, tmp_path):
    return write_tiny_config(tmp_path / "config.yaml", folder, mv_folder)


def test_without_a_config_it_says_what_is_installed(doctor):
    status, report = doctor()
    assert status == 0 and report["problems"] == []
    assert report["installed"]["torch"].startswith("2.") and report["installed"]["python"]
    compiled = {"threestudio", "tiny-cuda-nn", "nerfacc's CUDA", "nvdiffrast"}
    assert compiled <= report["installed"].keys()


def test_the_demo_has_all_it_needs(doctor):
    status, report = doctor(TINY)
    assert status == 0 and set(report["models"].values()) == {"here"}
    assert any("load/tiny/mvdream" in name for name in report["models"])


def truncate(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-9])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, "truncated, corrupt"),
        (
            lambda f: (f / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\n"),
            "Git LFS pointer.*git lfs pull",
        ),
        (lambda f: (f / WEIGHTS).unlink(), "has no weights"),
        (lambda f: shutil.rmtree(f / "vae"), "no folder vae/"),
        (lambda f: (f / "scheduler" / "scheduler_config.json").write_text("{"), "is no JSON"),
        (lambda f: (f / "tokenizer" / "tokenizer.json").write_text("{"), "tokenizer .*not load"),
        (lambda f: shutil.rmtree(f), "there is no such folder.*jointdreamer convert"),
    ],
)
def test_what_a_run_could_not_open_is_a_problem(doctor, config, folder, damage, said):
    damage(folder)
    status, report = doctor(config)
    assert status == 1 and report["problems"]
    assert re.search(said, report["problems"][0]), report["problems"]
    assert all(str(folder) in problem and "\n" not in problem for problem in report["problems"])


def test_models_of_the_hub_are_in_the_cache_or_to_be_downloaded(
    doctor,
    monkeypatch,
    tmp_path,
    capsys,
    sd_folder,
    mv_folder,
):
    config = write_tiny_config(tmp_path / "config.yaml", "someone/sd", mv_folder)
    with serve_hub(monkeypatch, tmp_path / "cache") as hub:
        hub.publish("someone/sd", sd_folder)
        status, report = doctor(config, "seed=3")
        assert status == 1 and hub.requests == []
        assert f"run jointdreamer download {config} seed=3" in report["problems"][0]
        assert main(["download", str(config)]) == 0
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        capsys.readouterr()
        status, report = doctor(config)
    states = {state for name, state in report["models"].items() if "someone/sd" in name}
    assert status == 0 and states == {"in the cache"}


def test_a_type_of_another_host_is_named(doctor):
    status, report = doctor(TINY, "system.renderer_type=nvdiff-rasterizer")
    assert status == 1
    assert "system.renderer_type='nvdiff-rasterizer': not registered" in report["problems"][0]


def make_checkout(folder: Path, code: str = "") -> Path:
    """A stand-in for threestudio, with stand-ins for what it imports beside it."""
    (folder / "threestudio").mkdir(parents=True)
    (folder / "threestudio" / "__init__.py").write_text(f"__version__ = '0.2.3'\n{code}\n")
    (folder / "working.py").write_text("import sys; print('hello'); print('oh', file=sys.stderr)")
    (folder / "broken.py").write_text("raise OSError('another\\nCUDA')")
    (folder / "deadly.py").write_text("import os; os._exit(3)")
    return folder


def test_what_a_checkout_imports_is_tried(doctor, tmp_path, monkeypatch):
    wrong = {
        "absent": "ModuleNotFoundError: No module named 'absent'",
        "broken": "OSError: another CUDA",
        "deadly": "importing it ends Python",
    }
    monkeypatch.setattr(module, "OF_THREESTUDIO", ("working", "threestudio", *wrong))
    status, report = doctor("--threestudio", make_checkout(tmp_path))
    remedy = "; docs/threestudio.md says how to install it"
    wrong = {name: said + remedy for name, said in wrong.items()}
    assert report["threestudio"] == {"working": "here", "threestudio": "here"} | wrong
    assert status == 1 and len(report["problems"]) == 3


@pytest.mark.parametrize("how", ["environment", "folder"])
def test_doctor_finds_the_checkout(doctor, tmp_path, monkeypatch, how):
    monkeypatch.setattr(module, "OF_THREESTUDIO", ("threestudio",))
    checkout = make_checkout(tmp_path, "raise OSError('why')")
    monkeypatch.setenv("THREESTUDIO_ROOT", str(checkout)) if how == "environment" else None
    monkeypatch.chdir(checkout) if how == "folder" else None
    status, report = doctor()
    assert status == 1 and "threestudio: OSError: why" in report["problems"][0]


def test_our_launcher_provides_tinycudann_and_threestudios_does_not(doctor, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "OF_THREESTUDIO", ("tinycudann",))
    checkout = make_checkout(tmp_path)
    assert doctor("--threestudio", checkout)[0] == 1
    monkeypatch.setenv("THREESTUDIO_ROOT", str(checkout))
    assert doctor()[0] == 0


@pytest.mark.parametrize("arguments", [["nowhere.yaml"], ["a=1"], ["--threestudio", "nowhere"]])
def test_mistakes_are_one_line_and_status_2(arguments, capsys):
    assert main(["doctor", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1


def test_the_text_ends_with_what_is_wrong_or_that_nothing_is(capsys, config, folder):
    assert main(["doctor", str(TINY)]) == 0
    printed = capsys.readouterr().out
    assert "load/tiny/stable-diffusion" in printed
    assert printed.rstrip().endswith("Nothing is missing.")
    shutil.rmtree(folder / "vae")
    assert main(["doctor", str(config)]) == 1
    assert "\nProblem: system.guidance." in capsys.readouterr().out


@pytest.mark.parametrize("build", [build_sdxl, build_sd3])
def test_every_part_of_sdxl_and_sd3_is_looked_at(doctor, mv_folder, tmp_path, build):
    folder = build(tmp_path / "model")
    config = write_tiny_config(tmp_path / "config.yaml", folder, mv_folder)
    assert doctor(config)[0] == 0
    (folder / "text_encoder_2" / "model.safetensors").write_bytes(b"cut")
    status, report = doctor(config)
    assert status == 1
    assert [said for said in report["models"].values() if "text_encoder_2" in said]
