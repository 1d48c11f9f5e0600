"""Prompts to embeddings: sides, Perp-Neg, the cache, and what can go wrong."""

import json
import math
import os
from pathlib import Path

import pytest
import threestudio
import torch
from threestudio.models.prompt_processors import base, stable_diffusion_prompt_processor
from threestudio.models.prompt_processors.embedding_cache import default_cache_dir
from transformers import AutoTokenizer, CLIPTextModel

from jointdreamer.testing.random_priors import build_stable_diffusion

PROMPT, NEGATIVE = "a green bear", "a blue cat"
SIDES = ["side", "front", "back", "overhead"]


@pytest.fixture(scope="module")
def sd_folder(tmp_path_factory):
    return build_stable_diffusion(tmp_path_factory.mktemp("priors") / "stable-diffusion")


@pytest.fixture
def make(sd_folder, tmp_path):
    def processor(**changes):
        config = {
            "pretrained_model_name_or_path": str(sd_folder),
            "prompt": PROMPT,
            "negative_prompt": NEGATIVE,
            "cache_dir": str(tmp_path / "cache"),
        }
        return threestudio.find("stable-diffusion-prompt-processor")({**config, **changes})

    return processor


@pytest.fixture
def encoded(monkeypatch):
    """The prompts that reach the text encoder, as a list that grows."""
    seen = []
    original = stable_diffusion_prompt_processor.encode_prompts

    def counting(tokenizer, encoder, prompts):
        seen.extend(prompts)
        return original(tokenizer, encoder, prompts)

    monkeypatch.setattr(stable_diffusion_prompt_processor, "encode_prompts", counting)
    return seen


def embed(folder, prompt: str) -> torch.Tensor:
    """The embedding [1 L D] of a prompt, by transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").float()
    tokens = tokenizer([prompt], padding="max_length", max_length=24, return_tensors="pt")
    with torch.no_grad():
        return encoder(tokens.input_ids)[0]


def cameras(*azimuth_deg: float, elevation_deg: float = 0.0) -> tuple[torch.Tensor, ...]:
    azimuth = torch.tensor(azimuth_deg)
    return torch.full_like(azimuth, elevation_deg), azimuth, torch.ones_like(azimuth)


def output(n: int = 4, **changes) -> base.PromptProcessorOutput:
    """An output whose embeddings are one-hot: text s is the unit vector s, negative s is n + s."""
    directions = [
        base.DirectionConfig("side", str, str, lambda ele, azi, dis: ele > -1000),
        base.DirectionConfig("front", str, str, lambda ele, azi, dis: azi.abs() < 45),
        base.DirectionConfig("back", str, str, lambda ele, azi, dis: azi.abs() > 135),
        base.DirectionConfig("overhead", str, str, lambda ele, azi, dis: ele > 60),
    ]
    fields = {
        "text_embeddings": torch.eye(2 * n)[:1, None],
        "uncond_text_embeddings": torch.eye(2 * n)[n : n + 1, None],
        "text_embeddings_vd": torch.eye(2 * n)[:n, None],
        "uncond_text_embeddings_vd": torch.eye(2 * n)[n:, None],
        "directions": directions,
        "direction2idx": {d.name: i for i, d in enumerate(directions)},
        "use_perp_neg": True,
        "perp_neg_f_sb": (1, 0.5, -0.606),
        "perp_neg_f_fsb": (1, 0.5, 0.967),
        "perp_neg_f_fs": (4, 0.5, -2.426),
        "perp_neg_f_sf": (4, 0.5, -2.426),
        "prompt": "",
        "prompts_vd": [],
    }
    return base.PromptProcessorOutput(**{**fields, **changes})


# what is embedded


def test_embeddings_are_the_text_encoders_last_hidden_states(make, sd_folder):
    out = make()()
    torch.testing.assert_close(out.text_embeddings, embed(sd_folder, PROMPT))
    torch.testing.assert_close(out.uncond_text_embeddings, embed(sd_folder, NEGATIVE))
    assert out.text_embeddings_vd.shape == (4, 24, 128)


@pytest.mark.parametrize(
    ("in_front", "expected"),
    [
        (False, [f"{PROMPT}, {side} view" for side in SIDES]),
        (
            True,
            [f"{view} of {PROMPT}" for view in ("side view", "front view", "backside view")]
            + [f"overhead view of {PROMPT}"],
        ),
    ],
)
def test_view_dependent_prompts(make, sd_folder, in_front, expected):
    processor = make(view_dependent_prompt_front=in_front)
    out = processor()
    assert out.prompts_vd == expected and [d.name for d in out.directions] == SIDES
    assert processor.negative_prompts_vd == [NEGATIVE] * 4
    torch.testing.assert_close(out.text_embeddings_vd[2:3], embed(sd_folder, expected[2]))


def test_a_side_can_have_a_prompt_of_its_own(make):
    processor = make(prompt_back="a tail", prompt_overhead="two ears")
    assert processor.prompts_vd[2:] == ["a tail", "two ears"]
    assert processor.prompts_vd[0] == f"{PROMPT}, side view"


def test_cameras_get_the_side_they_see(make, sd_folder):
    out = make(front_threshold=30.0, back_threshold=60.0, overhead_threshold=50.0)()
    text = out.text_embeddings_vd
    azimuths = [0.0, 29.0, -29.0, 31.0, 119.0, 121.0, 180.0, -121.0, 270.0, 359.0, -340.0]
    sides = [1, 1, 1, 0, 0, 2, 2, 2, 0, 1, 1]
    both = out.get_text_embeddings(*cameras(*azimuths))
    assert torch.equal(both[:11], text[sides])
    assert torch.equal(both[11:], embed(sd_folder, NEGATIVE).expand(11, -1, -1))
    above = out.get_text_embeddings(*cameras(0.0, 180.0, elevation_deg=51.0))
    assert torch.equal(above[:2], text[[3, 3]])
    plain = out.get_text_embeddings(*cameras(0.0, 180.0), view_dependent_prompting=False)
    assert torch.equal(plain[:2], out.text_embeddings.expand(2, -1, -1))


def test_azimuths_are_shifted_to_half_open_turn():
    shifted = base.shift_azimuth_deg(torch.tensor([0.0, 180.0, -180.0, 190.0, -190.0, 725.0]))
    assert shifted.tolist() == [0.0, -180.0, -180.0, -170.0, 170.0, 5.0]


# Perp-Neg


def test_perp_neg_blends_neighbouring_sides():
    """At 30 degrees two thirds front, one third side; at -120 one third back, two thirds side."""
    out = output()
    text, weights = out.get_text_embeddings_perp_neg(*cameras(30.0, -120.0))
    side, front, back = out.text_embeddings_vd[:3]
    positive, uncond, negative = text[:2], text[2:4], text[4:].unflatten(0, (2, 2))
    torch.testing.assert_close(positive[0], (2 * front + side) / 3)
    torch.testing.assert_close(positive[1], (2 * side + back) / 3)
    assert torch.equal(uncond, out.uncond_text_embeddings_vd[[1, 0]])
    assert torch.equal(negative[0], torch.stack([front, side]))
    assert torch.equal(negative[1], torch.stack([side, front]))

    def f(a, b, c, r):
        return -(a * math.exp(-b * r) + c)

    expected = [
        [f(4, 0.5, -2.426, 2 / 3), f(4, 0.5, -2.426, 1 / 3)],
        [f(1, 0.5, -0.606, 2 / 3), f(1, 0.5, 0.967, 2 / 3)],
    ]
    torch.testing.assert_close(weights, torch.tensor(expected))


def test_perp_neg_weights_vanish_where_the_negative_is_the_positive():
    _, weights = output().get_text_embeddings_perp_neg(*cameras(0.0, 90.0))
    assert weights[0, 0].item() == pytest.approx(0, abs=1e-3)  # front is not pushed off the front
    assert weights[1, 0].item() == pytest.approx(0, abs=1e-3)  # nor side off the side


def test_perp_neg_leaves_views_from_overhead_alone():
    out = output()
    text, weights = out.get_text_embeddings_perp_neg(*cameras(10.0, 100.0, elevation_deg=70.0))
    uncond = out.uncond_text_embeddings_vd[3]
    assert torch.equal(text[:2], out.text_embeddings_vd[[3, 3]])
    assert torch.equal(text[2:], uncond.expand(6, 1, -1))
    assert torch.equal(weights, torch.zeros(2, 2))


def test_perp_neg_without_view_dependent_prompts_is_an_error():
    with pytest.raises(ValueError, match="use_perp_neg=true.*view_dependent_prompting=true"):
        output().get_text_embeddings_perp_neg(*cameras(0.0), view_dependent_prompting=False)


def test_perp_neg_coefficients_come_from_the_config(make):
    out = make(use_perp_neg=True, perp_neg_f_sb=[2, 0.1, -1])()
    assert out.use_perp_neg and out.perp_neg_f_sb == (2, 0.1, -1)
    assert out.perp_neg_f_fsb == (1, 0.5, 0.967) and out.perp_neg_f_fs == (4, 0.5, -2.426)


# the cache


def test_cached_prompts_are_not_encoded_again(make, encoded):
    first = make()()
    assert sorted(encoded) == sorted([PROMPT, NEGATIVE, *first.prompts_vd])
    encoded.clear()
    assert torch.equal(make()().text_embeddings_vd, first.text_embeddings_vd)
    assert encoded == []
    make(negative_prompt="a red dog")
    assert encoded == ["a red dog"]
    encoded.clear()
    make(use_cache=False)
    assert PROMPT in encoded


def test_retrained_weights_never_meet_a_stale_cache(make, tmp_path):
    folder = build_stable_diffusion(tmp_path / "model")
    make(pretrained_model_name_or_path=str(folder))
    build_stable_diffusion(folder, seed=1)  # same sizes, other weights
    out = make(pretrained_model_name_or_path=str(folder))()
    torch.testing.assert_close(out.text_embeddings, embed(folder, PROMPT))


def test_default_cache_is_the_users(monkeypatch, tmp_path, make):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    folder = tmp_path / "xdg" / "threestudio-jointdreamer" / "text_embeddings"
    assert default_cache_dir() == folder
    working = tmp_path / "cwd"
    working.mkdir()
    monkeypatch.chdir(working)
    make(cache_dir=None)
    assert {path.suffix for path in folder.rglob("*")} == {".safetensors"}
    assert list(working.iterdir()) == []
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir().parent.parent == Path.home() / ".cache"


def test_damaged_cache_file_is_written_again(make, tmp_path, sd_folder):
    make()
    for path in (tmp_path / "cache").iterdir():
        os.truncate(path, 20)
    torch.testing.assert_close(make()().text_embeddings, embed(sd_folder, PROMPT))


def test_missing_embedding_after_preparation_is_named(make):
    with pytest.raises(FileNotFoundError, match="'a frog'.*system.prompt_processor.cache_dir"):
        make().load_from_cache("a frog")


@pytest.mark.parametrize("folder", ["/proc/nowhere", "file/below"])
def test_cache_that_cannot_be_written_is_named(make, tmp_path, folder):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="system.prompt_processor.cache_dir"):
        make(cache_dir=str(tmp_path / folder))


# the text encoder


def test_text_encoder_can_be_held_for_other_prompts(make, sd_folder):
    processor = make()
    processor.configure_text_encoder()
    text, uncond = processor.get_text_embeddings("a red dog", ["", "a pig"])
    torch.testing.assert_close(text, embed(sd_folder, "a red dog"))
    torch.testing.assert_close(uncond[1:], embed(sd_folder, "a pig"))
    processor.destroy_text_encoder()
    assert not hasattr(processor, "text_encoder") and not hasattr(processor, "tokenizer")


def test_relative_folder_is_also_looked_up_in_the_repository(make, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    out = make(pretrained_model_name_or_path="load/tiny/stable-diffusion")()
    root = Path(__file__).resolve().parents[3]
    expected = embed(root / "load/tiny/stable-diffusion", PROMPT)
    torch.testing.assert_close(out.text_embeddings, expected)


@pytest.mark.parametrize(
    ("spawn", "device", "elsewhere"),
    [(True, "cuda", True), (False, "cuda", False), (True, "cpu", False)],
)
def test_process_of_its_own_is_for_gpus_and_can_be_refused(
    make, monkeypatch, spawn, device, elsewhere
):
    processor = make(spawn=spawn, use_cache=False)
    processor.device = torch.device(device)
    calls = []
    monkeypatch.setattr(processor, "_run_in_subprocess", lambda *a: calls.append("elsewhere"))
    monkeypatch.setattr(processor, "spawn_func", lambda *a: calls.append("here"))
    processor.prepare_text_embeddings()
    assert calls == ["elsewhere" if elsewhere else "here"]


@pytest.mark.slow
def test_process_of_its_own_writes_the_same_embeddings(make, sd_folder, tmp_path):
    processor = make()
    processor._run_in_subprocess(str(sd_folder), ["a pig"], str(tmp_path / "cache"))
    expected = embed(sd_folder, "a pig")[0]
    torch.testing.assert_close(processor.load_from_cache("a pig").cpu(), expected)


# warnings


def test_unknown_words_are_named_once_with_the_known_ones(make, caplog):
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        with caplog.at_level("WARNING"):
            make(prompt="a green Zebra wearing a kimono", negative_prompt="a zebra, ugly")
        warnings = [r.getMessage() for r in caplog.records if "never learned" in r.getMessage()]
        assert len(warnings) == 1
        assert "Zebra, kimono, zebra, ugly." in warnings[0]
        assert "backpack, bear, black" in warnings[0] and "<unk>" not in warnings[0]


def test_known_words_give_no_warning(make, caplog):
    with caplog.at_level("WARNING"):
        make(prompt="A Green BEAR, wearing a hat")
    assert caplog.text == ""


def test_a_large_vocabulary_is_not_listed(make, tmp_path, caplog):
    folder = build_stable_diffusion(tmp_path / "model")
    path = folder / "tokenizer" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary |= {f"word{i}": len(vocabulary) + i for i in range(300)}
    path.write_text(json.dumps(tokenizer))
    with caplog.at_level("WARNING"):
        make(pretrained_model_name_or_path=str(folder), prompt="a zebra")
    assert "ignores: zebra." in caplog.text and "Words it knows" not in caplog.text


def test_unknown_token_that_is_also_the_end_token_means_nothing(make, tmp_path, caplog):
    """As in CLIP, whose tokenizer knows pieces of every word."""
    folder = build_stable_diffusion(tmp_path / "model")
    path = folder / "tokenizer" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "eos_token": "<unk>", "pad_token": "<unk>"}))
    with caplog.at_level("WARNING"):
        make(pretrained_model_name_or_path=str(folder), prompt="a zebra")
    assert "never learned" not in caplog.text


def test_prompts_that_are_too_long_are_cut_with_one_warning(make, sd_folder, caplog):
    words = " ".join(["red"] * 22)  # 24 tokens with start and end
    with caplog.at_level("WARNING"):
        out = make(prompt=f"{words} green cat", negative_prompt="")()
    warnings = [r.getMessage() for r in caplog.records if "ignores the end" in r.getMessage()]
    assert len(warnings) == 1 and "'green cat'" in warnings[0]
    torch.testing.assert_close(out.text_embeddings, embed(sd_folder, words))


# mistakes


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"prompt": ""}, ValueError, "system.prompt_processor.prompt='' is empty"),
        ({"prompt": "  "}, ValueError, "system.prompt_processor.prompt="),
        ({"use_prompt_debiasing": True}, ValueError, "use_prompt_debiasing=true"),
        ({"promt": "a cat"}, ValueError, "promt.*did you mean 'prompt'"),
        (
            {"pretrained_model_name_or_path": "load/no/where"},
            FileNotFoundError,
            "pretrained_model_name_or_path='load/no/where': there is no such folder. Check",
        ),
        (
            {"pretrained_model_name_or_path": "load/tiny/mvdream"},
            FileNotFoundError,
            "pretrained_model_name_or_path='load/tiny/mvdream'.*no folder tokenizer/",
        ),
        (
            {"pretrained_model_name_or_path": "load/nowhere"},
            FileNotFoundError,
            "pretrained_model_name_or_path='load/nowhere'.*point the key",
        ),
    ],
)
def test_mistakes_are_named(make, monkeypatch, changes, error, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(error, match=message):
        make(**changes)


@pytest.mark.parametrize(
    "file",
    ["text_encoder/model.safetensors", "text_encoder/config.json", "tokenizer/tokenizer.json"],
)
def test_truncated_files_are_named(make, tmp_path, file):
    folder = build_stable_diffusion(tmp_path / "model")
    os.truncate(folder / file, 10)
    with pytest.raises(ValueError, match=r"pretrained_model_name_or_path=.*does not load"):
        make(pretrained_model_name_or_path=str(folder))


# the prompt library


@pytest.fixture
def library(tmp_path, monkeypatch):
    (tmp_path / "load").mkdir()
    prompts = ["a red bear on a cube", "a red cat", "a Green cat"]
    (tmp_path / "load" / "prompt_library.json").write_text(json.dumps({"dreamfusion": prompts}))
    monkeypatch.chdir(tmp_path)


def test_library_completes_a_prompt(make, library):
    assert make(prompt="lib:green_cat").prompt == "a Green cat"
    assert make(prompt="lib:cube")().prompt == "a red bear on a cube"


@pytest.mark.parametrize(("prompt", "count"), [("lib:red", 2), ("lib:frog", 0)])
def test_library_wants_exactly_one_match(make, library, prompt, count):
    with pytest.raises(ValueError, match=f"{prompt}.*fit {count} prompts"):
        make(prompt=prompt)
