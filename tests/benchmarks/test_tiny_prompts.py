"""The benchmark's prompts: different creatures, none that settings were chosen with."""

import json
from collections import Counter

from benchmarks import tiny_prompts
from benchmarks.tiny_prompts import FOLDER, describe, is_complex, prompts153, taken
from benchmarks.tiny_prompts import key_of as key
from jointdreamer.janus.synthetic import is_in_split
from jointdreamer.tinyworld.captions import VOCABULARY, parse


def read(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def test_sixteen_complex_creatures_that_nothing_was_chosen_with():
    prompts = read("tiny16")
    keys = [key(text) for text in prompts]
    assert len(set(keys)) == 16 and all(map(is_complex, keys))
    assert set(Counter(k[0] for k in keys).values()) == {2}
    assert len({k[:2] for k in keys}) == 16
    assert not set(keys) & taken()
    assert all(is_in_split(parse(text), "held-out").all() for text in prompts)
    demo = {key(text) for text in read("demo8")}
    assert demo < taken() and len(taken()) > 100


def test_settings_are_chosen_with_sixteen_others():
    keys = [key(text) for text in read("tuning16")]
    assert len(set(keys)) == 16 and all(map(is_complex, keys))
    assert set(Counter(k[0] for k in keys).values()) == {2}
    assert not set(keys) & (taken() | {key(text) for text in read("tiny16")})
    assert all(is_in_split(parse(text), "held-out").all() for text in read("tuning16"))


def test_a_hundred_and_fifty_three_different_creatures_with_the_sixteen_among_them():
    few, many = read("tiny16"), read("tiny153")
    assert many[:16] == few and len({key(text) for text in many}) == len(many) == 153
    assert set(" ".join(many).split()) <= set(VOCABULARY)
    assert all(describe(key(text)) == text for text in many)


def test_the_command_writes_these_very_files(tmp_path, monkeypatch, capsys):
    assert prompts153(read("tiny16")) == read("tiny153")
    monkeypatch.setattr("sys.argv", ["tiny_prompts.py", "--out", str(tmp_path)])
    tiny_prompts.main()
    for name in ("tiny16", "tiny153", "tuning16"):
        assert (tmp_path / f"{name}.json").read_bytes() == (FOLDER / f"{name}.json").read_bytes()
