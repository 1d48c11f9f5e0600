"""threestudio.register and threestudio.find."""

import pytest
import threestudio


@pytest.fixture
def names(monkeypatch):
    monkeypatch.setattr(threestudio, "__modules__", {})


def test_find_returns_the_registered_class(names):
    @threestudio.register("toy-thing")
    class Thing:
        pass

    assert threestudio.find("toy-thing") is Thing


def test_a_name_can_be_registered_once(names):
    threestudio.register("toy-thing")(type("First", (), {}))
    with pytest.raises(ValueError, match=r"'toy-thing' is already registered by .*First"):
        threestudio.register("toy-thing")(type("Second", (), {}))


def test_find_composes_mixins_before_the_main_class(names):
    @threestudio.register("main")
    class Main:
        def who(self):
            return ["main"]

    @threestudio.register("loud")
    class Loud:
        def who(self):
            return ["loud", *super().who()]

    @threestudio.register("kind")
    class Kind:
        def who(self):
            return ["kind", *super().who()]

    assert threestudio.find("main:loud")().who() == ["loud", "main"]
    assert threestudio.find("main:kind,loud")().who() == ["kind", "loud", "main"]
    assert issubclass(threestudio.find("main:loud"), Main)


def test_an_unknown_name_is_told_with_close_ones(names):
    threestudio.register("toy-geometry")(type("Geometry", (), {}))
    with pytest.raises(ValueError, match=r"'toy-geometri' .* did you mean 'toy-geometry'"):
        threestudio.find("toy-geometri")
    with pytest.raises(ValueError, match=r"'zzz' .* registered names: toy-geometry"):
        threestudio.find("toy-geometry:zzz")


def test_the_version_is_the_one_whose_api_this_follows():
    assert threestudio.__version__ == "0.2.3"
