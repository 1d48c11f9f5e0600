"""The pictures in docs are those that the shipped weights and the demo's config make."""

import json

import pytest

from benchmarks.docs_pictures import DOCS, NOTES, SOURCES


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.command)
def test_no_picture_is_stale(source):
    notes = json.loads(NOTES.read_text())
    for picture in source.pictures:
        assert (DOCS / picture).is_file()
        assert notes[picture]["inputs"] == source.digest(), (
            f"docs/{picture} is of other weights or settings: python -m benchmarks.docs_pictures "
            f"{picture} makes it anew"
        )


def test_a_changed_input_is_noticed(tmp_path):
    from dataclasses import replace

    (tmp_path / "a.txt").write_text("a")
    source = replace(SOURCES[0], inputs=(tmp_path,))
    before = source.digest()
    (tmp_path / "a.txt").write_text("b")
    assert source.digest() != before and source.digest() != SOURCES[0].digest()
