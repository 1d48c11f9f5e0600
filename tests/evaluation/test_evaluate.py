"""`jointdreamer evaluate` on runs whose pictures are known."""

import csv
import json

import numpy as np
import pytest
import torch
from helpers.finished_runs import turntable_of, write_run
from PIL import Image

from jointdreamer.cli import main
from jointdreamer.evaluation import verdicts
from jointdreamer.evaluation.clip_models import FolderClip
from jointdreamer.janus.verdict import Limits
from jointdreamer.janus.views import AssetViews

BEAR, DUCK = "a green bear wearing a red hat", "a yellow duck with a blue backpack"


@pytest.fixture(scope="module")
def pictures():
    return {prompt: turntable_of(prompt, 72) for prompt in (BEAR, DUCK)}


@pytest.fixture
def runs(tmp_path, pictures):
    """`true` shows what its prompts say, `swapped` each the other's creature."""
    for prompt, other in ((BEAR, DUCK), (DUCK, BEAR)):
        for name, shown in (("true", prompt), ("swapped", other)):
            folder = tmp_path / "runs" / f"{name}-seed0" / prompt.split()[2]
            curve = [1.0 + 0.1 * (i % 2) for i in range(30)]
            write_run(folder, prompt, pictures[shown], f"{name}-seed0", beside=1, grad_norms=curve)
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    folder = tmp_path_factory.mktemp("references")
    for name, size in (("a", 48), ("b", 64)):
        for index, picture in enumerate(turntable_of(BEAR, size)):
            Image.fromarray(picture).save(folder / f"{name}{index}.png")
    return folder


def status(runs, out, *more) -> int:
    return main(["evaluate", str(runs), "--out", str(out), "--device", "cpu", *map(str, more)])


def evaluate(runs, out, *more) -> tuple[list[dict], list[dict]]:
    assert status(runs, out, *more) == 0
    tables = (out / name for name in ("assets.csv", "methods.csv"))
    return tuple(list(csv.DictReader(table.open(newline=""))) for table in tables)


def test_assets_that_show_their_prompts_win_on_every_count(runs, tmp_path, references):
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([BEAR + ".", "a red cat", "a yellow duck"]))
    options = ("--prompts", prompts, "--fid-reference", references)
    assets, methods = evaluate(runs, tmp_path / "out", *options)
    scores = {(row["method"], row["prompt"]): row for row in assets}
    assert set(scores) == {(m, p) for m in ("true", "swapped") for p in (BEAR, DUCK)}
    for prompt, candidates in ((BEAR, "3"), (DUCK, "4")):  # the duck is not on the list
        true, swapped = scores["true", prompt], scores["swapped", prompt]
        assert float(true["clip_score"]) > float(swapped["clip_score"]) + 20
        assert float(true["r_precision"]) >= 75 and true["rank"] == "1"
        assert swapped["r_precision"] == "0.0"
        assert true["candidates"] == swapped["candidates"] == candidates
        assert true["views"] == "8" and 0.02 < float(true["roughness"]) < 0.1
    by_name = {row["method"]: row for row in methods}
    assert [by_name[name]["retrieved"] for name in ("true", "swapped")] == ["100.0", "0.0"]
    assert by_name["true"]["fid_renders"] == "16" and by_name["true"]["fid_references"] == "18"
    assert by_name["true"]["fid_features"].startswith(("clip", "inception"))
    assert float(by_name["true"]["fid"]) == pytest.approx(float(by_name["swapped"]["fid"]))


def test_fid_is_less_for_renders_of_what_the_references_show(runs, tmp_path, references):
    options = ("--fid-reference", references, "--fid-features", "clip")
    bear, duck = (
        float(evaluate(runs / "true-seed0" / name, tmp_path / name, *options)[1][0]["fid"])
        for name in ("bear", "duck")
    )
    assert bear < 0.5 * duck


def test_without_a_prompt_file_the_runs_choose_among_each_other(runs, tmp_path):
    assets, _ = evaluate(runs, tmp_path / "out")
    assert {row["candidates"] for row in assets} == {"2"}
    alone, _ = evaluate(runs / "true-seed0" / "bear", tmp_path / "out")
    assert alone[0]["r_precision"] == alone[0]["rank"] == ""


@pytest.fixture
def looked(monkeypatch):
    """How many pictures CLIP was shown, call by call; at call `looked.interrupt` comes Ctrl-C."""

    class Calls(list):
        interrupt = None

    calls, images = Calls(), FolderClip.images

    def counting(self, pictures):
        calls.append(len(pictures))
        if len(calls) == calls.interrupt:
            raise KeyboardInterrupt
        return images(self, pictures)

    monkeypatch.setattr(FolderClip, "images", counting)
    return calls


def test_every_picture_is_looked_at_once(runs, tmp_path, looked):
    first = evaluate(runs, tmp_path / "out")
    assert looked == [8, 8]  # two creatures in four runs
    assert evaluate(runs, tmp_path / "out") == first and len(looked) == 2
    frame = runs / "true-seed0" / "bear" / "save" / "it20-test" / "3.png"
    Image.open(frame).rotate(90).save(frame)
    assert evaluate(runs, tmp_path / "out") != first
    assert looked[2:] == [8]
    for path in (tmp_path / "out" / "features").iterdir():
        path.write_bytes(b"cut off")
    evaluate(runs, tmp_path / "out")
    assert looked[3:] == [8] * 3
    evaluate(runs, tmp_path / "out", "--views", "4")
    assert looked[6:] == [4, 4]  # the turned picture is not among the four


def test_an_interrupted_evaluation_goes_on(runs, tmp_path, looked):
    looked.interrupt = 2
    assert status(runs, tmp_path / "out") == 130
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["features"]
    assets, _ = evaluate(runs, tmp_path / "out")
    assert len(assets) == 4 and len(looked) == 3


class RedFaces:
    """A detector to whom red in a picture is a face."""

    name, calibrated, limits = "red", False, Limits()

    def __call__(self, frames):
        red = (frames[..., 0] > 0.8) & (frames[..., 1:] < 0.2).all(dim=-1)
        return red.flatten(1).any(dim=1).float()


def test_verdict_of_the_janus_meter_fills_its_columns(tmp_path, monkeypatch):
    monkeypatch.setattr(verdicts, "find_detector", lambda name: RedFaces())
    front, back = (23, 24, 0, 1), (11, 12, 13)
    for name, views in (("none", ()), ("front", front), ("both", front + back)):
        frames = np.zeros((25, 8, 8, 3), np.uint8)
        frames[list(views), 2:4, 2:4] = (255, 0, 0)
        write_run(tmp_path / "runs" / name, BEAR, list(frames), name="jsd")
    assets, methods = evaluate(tmp_path / "runs", tmp_path / "out", "--janus", "red")
    found = {row["run"].rpartition("/")[2]: row for row in assets}
    for name, expected in (("none", "001"), ("front", "100"), ("both", "210")):
        assert [found[name][key] for key in ("faces", "janus", "faceless")] == list(expected)
    assert len(found["both"]["face_extents_deg"].split()) == 2
    assert {row["face_views"] for row in assets} == {"24"} and methods[0]["judged"] == "3"
    for name in ("janus", "faceless"):
        assert float(methods[0][f"{name}_rate"]) == pytest.approx(100 / 3, abs=1e-3)
        assert 0 < float(methods[0][f"{name}_rate_low"]) < 10
    assert "red, uncalibrated" in (tmp_path / "out" / "report.html").read_text()


def test_faces_can_be_judged_on_renders_of_the_checkpoint(tmp_path, monkeypatch):
    rendered = []
    monkeypatch.setattr(verdicts, "find_detector", lambda name: RedFaces())
    dark = [np.zeros((8, 8, 3), np.uint8)] * 9

    def views_of(folder, device=None):
        rendered.append(folder.name)
        frames = torch.zeros(24, 8, 8, 3)
        frames[:2, :, :, 0] = 1.0
        return AssetViews(frames, torch.arange(24) * 15.0, "renders")

    monkeypatch.setattr(verdicts, "views_of", views_of)
    for name in ("with", "without"):
        write_run(tmp_path / "runs" / name, BEAR, dark)
    (tmp_path / "runs" / "with" / "ckpts").mkdir()
    (tmp_path / "runs" / "with" / "ckpts" / "last.ckpt").write_bytes(b"weights")
    for _ in range(2):
        options = ("--janus", "red", "--render-faces")
        assets, _ = evaluate(tmp_path / "runs", tmp_path / "out", *options)
        assert [(row["faces"], row["face_views"]) for row in assets] == [("1", "24"), ("0", "8")]
    assert rendered == ["with"]  # once in two evaluations


def test_too_few_views_for_a_verdict_are_told_with_the_run(tmp_path, capsys):
    run = write_run(tmp_path / "run", BEAR, [np.zeros((8, 8, 3), np.uint8)] * 4)
    assert status(run, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert str(run) in error and "n_test_views" in error and "--janus off" in error
    assert status(run, tmp_path / "out", "--janus", "off") == 0


def test_janus_is_left_empty_where_nothing_can_judge(runs, tmp_path, monkeypatch):
    def missing(name):
        raise FileNotFoundError("no weights")

    monkeypatch.setattr(verdicts, "find_detector", missing)
    assets, methods = evaluate(runs, tmp_path / "out")
    assert {row["janus"] for row in assets} == {""} and methods[0]["janus_rate"] == ""
    assert verdicts.choose_detector("auto", "open_clip:ViT-B-32/openai") is None
    with pytest.raises(FileNotFoundError, match="no weights"):
        verdicts.choose_detector("tiny", "load/tiny/clip")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--views", "0"], "--views 0"),
        (["--prompts", "nowhere.json"], "nowhere.json does not exist"),
        (["--fid-reference", "nowhere"], "nowhere is no folder"),
        (["--clip", "load/nothing"], "load/nothing"),
        (["--janus", "guess"], "guess"),
        pytest.param(
            ["--device", "cuda"],
            "PyTorch sees no GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_mistakes_are_told_in_one_line_and_nothing_is_written(
    runs, tmp_path, capsys, arguments, message
):
    assert status(runs, tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_prompt_of_the_real_world_asks_for_a_real_clip(tmp_path, pictures, capsys):
    run = write_run(tmp_path / "run", "a raccoon astronaut", pictures[BEAR])
    assert status(run, tmp_path / "out") == 2
    assert "--clip open_clip:" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_and_cpu_agree(runs, tmp_path):
    cpu, _ = evaluate(runs, tmp_path / "cpu")
    gpu, _ = evaluate(runs, tmp_path / "gpu", "--device", "cuda")
    for a, b in zip(cpu, gpu, strict=True):
        assert float(a["clip_score"]) == pytest.approx(float(b["clip_score"]), abs=0.05)
