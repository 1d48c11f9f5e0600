"""The timed negative prompt, and the cache of text embeddings."""

import gc
import json
import os
import shutil
import weakref
from pathlib import Path

import pytest
import threestudio
import torch
from PIL import Image
from threestudio_jointdreamer.files import user_cache
from threestudio_jointdreamer.prompts import jointdreamer
from threestudio_jointdreamer.prompts.cache import EmbeddingCache
from threestudio_jointdreamer.weights.models import NamedModel
from transformers import AutoTokenizer, CLIPTextModel

from jointdreamer.testing.random_priors import build_stable_diffusion

PROMPT, NEGATIVE = "a green bear", "a blue cat"


@pytest.fixture
def make(sd_folder, tmp_path):
    def processor(**changes):
        config = {
            "pretrained_model_name_or_path": str(sd_folder),
            "prompt": PROMPT,
            "negative_prompt": NEGATIVE,
            "cache_dir": str(tmp_path / "cache"),
        }
        return threestudio.find("jointdreamer-prompt-processor")({**config, **changes})

    return processor


def encode(folder, prompt: str) -> torch.Tensor:
    """The embedding [1 L D] of a prompt, by transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    tokens = tokenizer([prompt], padding="max_length", max_length=24, return_tensors="pt")
    with torch.no_grad():
        return encoder(tokens.input_ids)[0]


@pytest.fixture
def count_encodings(monkeypatch):
    encoded = []

    def counting(name, prompts, *more):
        encoded.extend(prompts)
        return original(name, prompts, *more)

    original = jointdreamer.encode_prompts
    monkeypatch.setattr(jointdreamer, "encode_prompts", counting)
    return encoded


def test_empty_prompt_is_the_negative_until_start_neg(make, sd_folder):
    processor = make(start_neg=5)
    text, empty, negative = (encode(sd_folder, p) for p in (PROMPT, "", NEGATIVE))
    steps = [(0, empty), (4, empty), (5, negative), (9, negative), (2, empty)]
    for step, expected in [(None, empty), *steps]:
        if step is not None:  # before any step it is step 0
            processor.do_update_step(0, step)
        out = processor()
        torch.testing.assert_close(out.text_embeddings, text)
        torch.testing.assert_close(out.uncond_text_embeddings, expected)
        torch.testing.assert_close(
            out.uncond_text_embeddings_vd, expected.expand_as(out.uncond_text_embeddings_vd)
        )
    torch.testing.assert_close(make()().uncond_text_embeddings, negative)


def test_view_dependent_prompts_are_threestudios(make, sd_folder):
    out = make(front_threshold=45.0)()
    both = out.get_text_embeddings(
        torch.zeros(2), torch.tensor([0.0, 180.0]), torch.ones(2), view_dependent_prompting=True
    )
    torch.testing.assert_close(both[:1], encode(sd_folder, f"{PROMPT}, front view"))
    torch.testing.assert_close(both[1:2], encode(sd_folder, f"{PROMPT}, back view"))
    plain = out.get_text_embeddings(
        torch.zeros(1), torch.zeros(1), torch.ones(1), view_dependent_prompting=False
    )
    torch.testing.assert_close(plain[:1], encode(sd_folder, PROMPT))


def test_default_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache("text_embeddings") == tmp_path / "jointdreamer" / "text_embeddings"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert (
        user_cache("text_embeddings") == Path.home() / ".cache" / "jointdreamer" / "text_embeddings"
    )


def test_cached_prompts_are_not_encoded_again(make, count_encodings):
    first = make()()
    assert "" in count_encodings and PROMPT in count_encodings
    assert len(count_encodings) == len(set(count_encodings))
    count_encodings.clear()
    assert torch.equal(make()().text_embeddings, first.text_embeddings)
    assert count_encodings == []
    make(negative_prompt="a red dog")
    assert count_encodings == ["a red dog"]
    count_encodings.clear()
    make(use_cache=False)
    assert PROMPT in count_encodings


def test_another_model_at_the_same_path_is_another_key(make, tmp_path, count_encodings):
    folder = build_stable_diffusion(tmp_path / "model")
    first = make(pretrained_model_name_or_path=str(folder))()
    count_encodings.clear()
    build_stable_diffusion(folder, seed=1)
    again = make(pretrained_model_name_or_path=str(folder))()
    assert PROMPT in count_encodings
    assert not torch.equal(first.text_embeddings, again.text_embeddings)


def test_a_damaged_cache_file_is_written_again(make, tmp_path, sd_folder):
    make()
    path = EmbeddingCache(tmp_path / "cache", str(sd_folder)).path(PROMPT)
    os.truncate(path, 20)
    torch.testing.assert_close(make()().text_embeddings, encode(sd_folder, PROMPT))
    assert path.stat().st_size > 20


def test_embeddings_and_nothing_else_are_written_and_to_the_cache_alone(
    make, tmp_path, monkeypatch
):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    make()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {(path.parent.name, path.suffix) for path in written} == {("cache", ".safetensors")}


def test_unknown_words_are_named_with_the_known_ones_also_from_the_cache(make, caplog):
    for _ in range(2):
        caplog.clear()
        with caplog.at_level("WARNING"):
            make(prompt="a green Zebra wearing a kimono")
        assert "Zebra, kimono" in caplog.text and "backpack, bear" in caplog.text


def test_the_end_of_a_long_prompt_is_named_as_ignored(make, caplog):
    with caplog.at_level("WARNING"):
        make(prompt="a red bear " * 7 + "wearing a hat on the back", negative_prompt="")
    assert "ignores its end, 'a hat on the back'" in caplog.text


def test_known_prompts_give_no_warning(make, caplog):
    with caplog.at_level("WARNING"):
        make(prompt="A Green BEAR, wearing a hat")
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"spawn": True}, ValueError, "prompt_processor.spawn=true"),
        (
            {"pretrained_model_name_or_path": "load/nowhere"},
            FileNotFoundError,
            "prompt_processor.pretrained_model_name_or_path='load/nowhere'",
        ),
        (
            {"pretrained_model_name_or_path": "MVDream/MVDream/x.pt"},
            FileNotFoundError,
            "'MVDream/MVDream/x.pt' is one file",
        ),
        ({"cache_dir": "/proc/nowhere"}, ValueError, "prompt_processor.cache_dir"),
        ({"start_negative": 3}, ValueError, "start_negative"),
    ],
)
def test_mistakes_are_named(make, changes, error, message):
    with pytest.raises(error, match=message):
        make(**changes)


def test_a_model_without_text_encoder_is_named(make, mv_folder):
    with pytest.raises(FileNotFoundError, match=r"no folder tokenizer/"):
        make(pretrained_model_name_or_path=str(mv_folder))


def test_the_text_encoder_is_gone_after_use(make, monkeypatch):
    loaded = []

    def remember(self, *args):
        model = load(self, *args)
        loaded.append(weakref.ref(model))
        return model

    load = NamedModel.load
    monkeypatch.setattr(NamedModel, "load", remember)
    make()
    gc.collect()
    assert [model() for model in loaded] == [None]


def test_a_tokenizer_with_code_of_its_own_is_refused_in_one_line(make, sd_folder, tmp_path):
    folder = shutil.copytree(sd_folder, tmp_path / "model")
    file = folder / "tokenizer" / "tokenizer_config.json"
    auto_map = {"AutoTokenizer": ["evil.Tokenizer", None]}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": auto_map}))
    (folder / "tokenizer" / "evil.py").write_text(f"open({str(tmp_path / 'it-ran')!r}, 'w')")
    with pytest.raises(ValueError, match="name_or_path=.*auto_map.*never run") as refusal:
        make(pretrained_model_name_or_path=str(folder))
    assert "\n" not in str(refusal.value) and not (tmp_path / "it-ran").exists()


def test_a_picture_is_handed_on_with_the_embeddings(make, tmp_path):
    assert make()().image is None
    rgba = Image.new("RGBA", (80, 80))
    rgba.paste((200, 30, 40, 255), (20, 20, 60, 60))
    rgba.save(tmp_path / "red.png")
    output = make(image=str(tmp_path / "red.png"))()
    assert output.image.shape[0] == 4 and output.text_embeddings.ndim == 3
    with pytest.raises(FileNotFoundError, match="system.prompt_processor.image='no.png'"):
        make(image="no.png")


def test_another_text_encoder_is_asked_once_and_told_the_step(make, tmp_path, count_encodings):
    other = build_stable_diffusion(tmp_path / "other", seed=1)
    processor = make(start_neg=5)
    encoded = len(count_encodings)
    out = processor().encoded_by(str(other))
    torch.testing.assert_close(out.text_embeddings, encode(other, PROMPT))
    torch.testing.assert_close(out.uncond_text_embeddings, encode(other, ""))
    assert len(count_encodings) == 2 * encoded
    processor.do_update_step(0, 5)
    late = processor().encoded_by(str(other)).uncond_text_embeddings
    torch.testing.assert_close(late, encode(other, NEGATIVE))
    assert len(count_encodings) == 2 * encoded
