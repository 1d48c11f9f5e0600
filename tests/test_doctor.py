"""`jointdreamer doctor`: what it says, and its exit status."""

import json
from importlib.metadata import version
from pathlib import Path

import huggingface_hub.constants as constants
import pytest
from helpers.hub_server import serve_hub
from helpers.prior_fixtures import mv_folder, sd_folder  # noqa: F401
from helpers.tiny_run import write_tiny_config

from jointdreamer import machine, memory, threestudio_check, threestudio_needs
from jointdreamer.cli import main
from jointdreamer.experiment import read_experiment
from jointdreamer.threestudio_check import HERE, MISSING, WRONG, examine
from jointdreamer.threestudio_needs import Need

ROOT = Path(__file__).resolve().parents[1]
FULL = ROOT / "configs" / "jointdreamer.yaml"
TINY = ROOT / "configs" / "tiny" / "jointdreamer.yaml"
GIB = 2**30


@pytest.fixture(autouse=True)
def no_checkout(monkeypatch):
    """Whatever the tests run in: trying what a real threestudio imports takes long."""
    monkeypatch.delenv("THREESTUDIO_ROOT", raising=False)
    monkeypatch.setattr("jointdreamer.threestudio_check._installed", lambda: None)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))


@pytest.fixture
def doctor(capsys):
    def run(*arguments) -> tuple[int, dict]:
        status = main(["doctor", *map(str, arguments), "--json"])
        return status, json.loads(capsys.readouterr().out or "{}")

    return run


def with_gpu(monkeypatch, total: float, free: float | None = None) -> None:
    gpu = machine.Gpu("Some GPU", int(total * GIB), int((free or total) * GIB), "9.0")
    monkeypatch.setattr(machine, "gpus", lambda: [gpu])


def test_without_a_config_it_says_what_is_installed(doctor):
    status, report = doctor()
    assert status == 0 and report["problems"] == []
    assert report["versions"]["torch"].startswith("2.") and report["versions"]["python"]
    assert set(report["compiled"]) == {
        "threestudio",
        "tiny-cuda-nn",
        "nerfacc's CUDA",
        "nvdiffrast",
    }


def test_the_demo_has_all_it_needs(doctor):
    status, report = doctor(TINY)
    assert status == 0
    assert {row["state"] for row in report["weights"]} == {"here"}
    assert 0 < report["memory"]["total"] < 3


def test_weights_to_download_are_status_1_with_their_size(
    doctor,
    monkeypatch,
    tmp_path,
    sd_folder,  # noqa: F811
    mv_folder,  # noqa: F811
):
    config = write_tiny_config(tmp_path / "config.yaml", "someone/sd", mv_folder)
    with serve_hub(monkeypatch, tmp_path / "cache") as hub:
        hub.publish("someone/sd", sd_folder)
        status, report = doctor(config, "seed=3")
        rows = {row["part"]: row for row in report["weights"] if row["name"] == "someone/sd"}
        file = sd_folder / "unet" / "diffusion_pytorch_model.safetensors"
        assert status == 1 and rows["unet"]["state"] == "to download"
        assert rows["unet"]["gib_to_download"] == pytest.approx(file.stat().st_size / GIB, rel=1e-2)
        assert f"run jointdreamer download {config} seed=3" in report["problems"][-1]
        assert main(["download", str(config)]) == 0


def test_after_the_download_all_is_cached(
    doctor,
    monkeypatch,
    tmp_path,
    capsys,
    sd_folder,  # noqa: F811
    mv_folder,  # noqa: F811
):
    config = write_tiny_config(tmp_path / "config.yaml", "someone/sd", mv_folder)
    with serve_hub(monkeypatch, tmp_path / "cache") as hub:
        hub.publish("someone/sd", sd_folder)
        main(["download", str(config)])
        capsys.readouterr()
        status, report = doctor(config)
    states = {row["state"] for row in report["weights"] if row["name"] == "someone/sd"}
    assert status == 0 and states == {"cached"}


def test_weights_that_are_nowhere_are_named_once(doctor, offline):
    mvdream = "system.guidance.energy.pretrained_model_name_or_path=load/mvdream-sd21"
    status, report = doctor(FULL, mvdream)
    named = [p for p in report["problems"] if "load/mvdream-sd21" in p]
    assert status == 1 and len(named) == 1 and "jointdreamer convert" in named[0]


def test_a_gpu_that_is_too_small_is_named_with_remedies(doctor, offline, monkeypatch):
    with_gpu(monkeypatch, total=12)
    _, report = doctor(FULL)
    (problem,) = (p for p in report["problems"] if "Some GPU has 12" in p)
    assert "data.batch_size" in problem
    with_gpu(monkeypatch, total=80)
    assert not any("Some GPU" in p for p in doctor(FULL)[1]["problems"])


def test_a_gpu_in_use_is_a_note_and_no_problem(doctor, monkeypatch):
    with_gpu(monkeypatch, total=24, free=0.5)
    status, report = doctor(TINY)
    assert status == 0 and any("only 0 are free" in note for note in report["notes"])


def test_a_type_of_another_host_is_named(doctor):
    status, report = doctor(TINY, "system.renderer_type=nvdiff-rasterizer")
    assert status == 1
    assert "system.renderer_type='nvdiff-rasterizer' is not registered" in report["problems"][0]


def make_checkout(folder: Path, code: str = "import working") -> Path:
    """A stand-in for threestudio, with stand-ins for what it imports beside it."""
    (folder / "threestudio").mkdir(parents=True)
    (folder / "threestudio" / "__init__.py").write_text(f"__version__ = '0.2.3'\n{code}\n")
    (folder / "launch.py").touch()
    (folder / "working.py").write_text("def wanted(): ...")
    (folder / "broken.py").write_text("raise OSError('another\\nCUDA')")
    (folder / "needy.py").write_text("import absent_one")
    (folder / "deadly.py").write_text("import os; os._exit(3)")
    (folder / "chatty.py").write_text("print('hello'); print(1); print('{}')")
    return folder


def need(module: str, **more) -> Need:
    return Need(module, module, **{"mend": f"get {module}", "reason": "because", **more})


@pytest.mark.parametrize(
    "asked, line",
    [
        (need("working"), "working FOLDER (because)"),
        (need("chatty", reason=""), "chatty FOLDER"),
        (need("absent"), "absent missing: get absent (because)"),
        (need("broken"), "broken does not fit, OSError: another CUDA: get broken (because)"),
        (need("needy"), "needy does not fit, No module named 'absent_one': get needy (because)"),
        (need("deadly"), "deadly does not fit, importing it ends Python: get deadly (because)"),
        (
            need("working", names=("wanted", "renamed")),
            "working FOLDER does not fit, it has no renamed: get working (because)",
        ),
        (
            Need("packaging", "packaging", fits="<1", mend="get it"),
            f"packaging {version('packaging')} does not fit, it should be <1: get it",
        ),
        (Need("packaging", "packaging", fits=">1"), f"packaging {version('packaging')}"),
    ],
)
def test_each_package_of_threestudio_is_tried_and_gets_a_line(tmp_path, asked, line):
    (finding,), _ = examine(make_checkout(tmp_path / "threestudio"), (asked,))
    assert finding.line() == line.replace("FOLDER", str(tmp_path / "threestudio"))


def test_what_follows_a_deadly_import_is_not_called_here(tmp_path):
    needs = (need("working"), need("deadly"), need("broken"))
    findings, why_not = examine(make_checkout(tmp_path), needs)
    assert [f.state for f in findings] == [HERE, WRONG, WRONG] and why_not
    assert findings[2].why == "not tried"


def test_threestudio_itself_is_tried_last(tmp_path):
    assert examine(make_checkout(tmp_path / "good"), (need("working"),))[1] is None
    _, why_not = examine(make_checkout(tmp_path / "bad", "import nowhere"), (need("working"),))
    assert why_not == "No module named 'nowhere'"


def test_our_launcher_provides_tinycudann_and_threestudios_does_not(tmp_path):
    encodings = need("tinycudann", names=("Encoding",))
    checkout = make_checkout(tmp_path)
    assert examine(checkout, (encodings,), own_launcher=True)[0][0].state == HERE
    assert examine(checkout, (encodings,), own_launcher=False)[0][0].state == MISSING


def test_doctor_names_what_a_checkout_lacks(doctor, tmp_path, monkeypatch):
    monkeypatch.setattr(threestudio_check, "NEEDS", (need("working"), need("absent")))
    checkout = make_checkout(tmp_path)
    status, report = doctor("--threestudio", checkout)
    assert status == 1 and report["problems"] == ["absent missing: get absent (because)"]
    assert [row["state"] for row in report["threestudio"]["packages"]] == [HERE, MISSING]
    assert any("requirements.txt" in note for note in report["notes"])


@pytest.mark.parametrize("how", ["named", "environment", "folder"])
def test_doctor_finds_the_checkout(doctor, tmp_path, monkeypatch, how):
    monkeypatch.setattr(threestudio_check, "NEEDS", (need("working"),))
    checkout, more = make_checkout(tmp_path), []
    if how == "named":
        more = ["--threestudio", checkout]
    elif how == "environment":
        monkeypatch.setenv("THREESTUDIO_ROOT", str(checkout))
    else:
        monkeypatch.chdir(checkout)
    status, report = doctor(*more)
    assert status == 0 and report["threestudio"]["checkout"] == str(checkout)


def test_a_threestudio_that_fails_for_another_reason_is_told(doctor, tmp_path, monkeypatch):
    monkeypatch.setattr(threestudio_check, "NEEDS", (need("working"),))
    status, report = doctor("--threestudio", make_checkout(tmp_path, "raise OSError('why')"))
    assert status == 1 and report["problems"][0].endswith("cannot be imported: OSError: why")


def test_doctors_text_shows_what_is_here_and_what_is_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(threestudio_check, "NEEDS", (need("working"), need("absent")))
    assert main(["doctor", "--threestudio", str(make_checkout(tmp_path))]) == 1
    printed = capsys.readouterr().out
    assert f"What threestudio at {tmp_path} imports\n  working {tmp_path} (because)" in printed
    assert "Problem: absent missing: get absent (because)" in printed


def test_every_need_has_its_own_command_or_comes_with_the_extra():
    extra = (ROOT / "pyproject.toml").read_text().lower().replace("-", "_")
    for each in threestudio_needs.NEEDS:
        by_extra = each.mend == threestudio_needs.EXTRA
        assert not by_extra or f'"{each.package.lower().replace("-", "_")}' in extra, each.package


@pytest.mark.parametrize(
    "arguments",
    [
        ["nowhere.yaml"],
        ["a=1"],
        ["--threestudio", "nowhere"],
        [str(TINY), "system.guidance.energy_type=none"],
    ],
)
def test_mistakes_are_one_line_and_status_2(arguments, capsys):
    assert main(["doctor", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1


def test_both_commands_are_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert "fetch every weight" in printed and "check the installation" in printed


def test_the_text_names_sizes_and_ends_with_a_verdict(capsys):
    assert main(["doctor", str(TINY)]) == 0
    printed = capsys.readouterr().out
    assert "load/tiny/stable-diffusion unet" in printed and "GiB  total" in printed
    assert printed.rstrip().endswith("Nothing is missing.")


def estimate(*overrides) -> dict[str, float]:
    from threestudio_jointdreamer.weights.inventory import inventory_of

    cfg = read_experiment(FULL, list(overrides))
    return memory.estimate(cfg, inventory_of(cfg))


def test_the_estimate_gives_the_measured_pieces_back(offline):
    first = estimate("data.batch_size=8", "data.width=64", "data.height=64")
    assert first["encoding 8 views"] == pytest.approx(12.7, abs=0.2)
    assert first["rendering 8 x 4096 rays"] == pytest.approx(1.5, abs=0.1)
    compiled = estimate("data.batch_size=8", "system.guidance.compile=true", "data.width=64")
    assert compiled["encoding 8 views"] == pytest.approx(8.6, abs=0.1)


def test_the_most_demanding_stage_counts(offline):
    assert "rendering 4 x 65536 rays" in estimate()
    assert "rendering 8 x 65536 rays" in estimate("data.batch_size=[4,8]")


def test_the_priors_count_in_their_precision(offline):
    half = estimate()["weights of the priors"]
    full = estimate("system.guidance.half_precision_weights=false")["weights of the priors"]
    assert half == pytest.approx(3.5, abs=0.2)  # two UNets of 866 M parameters, and a VAE
    assert full - half == pytest.approx(950e6 * 2 / GIB, rel=0.01)


def test_local_models_are_counted_by_their_files(tmp_path, sd_folder, mv_folder):  # noqa: F811
    from safetensors.torch import load_file
    from threestudio_jointdreamer.weights.inventory import inventory_of

    config = write_tiny_config(tmp_path / "config.yaml", sd_folder, mv_folder)
    cfg = read_experiment(config)
    weights = memory.estimate(cfg, inventory_of(cfg))["weights of the priors"] * GIB
    folders = (sd_folder / "unet", sd_folder / "vae", mv_folder / "unet")
    tensors = [load_file(folder / "diffusion_pytorch_model.safetensors") for folder in folders]
    assert weights == 2 * sum(t.numel() for file in tensors for t in file.values())
