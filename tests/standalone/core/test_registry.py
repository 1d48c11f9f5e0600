"""threestudio.register and threestudio.find."""

import pytest
import threestudio


@pytest.fixture(autouse=True)
def names(monkeypatch):
    monkeypatch.setattr(threestudio, "__modules__", {})


def named(name):
    """A registered class that says its name, and then those of its bases."""

    def who(self):
        above = super(cls, self)
        return [name, *(above.who() if hasattr(above, "who") else [])]

    cls = type(name, (), {"who": who})
    return threestudio.register(name)(cls)


def test_find_composes_mixins_before_the_main_class():
    main, _, _ = named("main"), named("loud"), named("kind")
    assert threestudio.find("main") is main
    assert threestudio.find("main:loud")().who() == ["loud", "main"]
    assert threestudio.find("main:kind,loud")().who() == ["kind", "loud", "main"]
    assert issubclass(threestudio.find("main:loud"), main)


def test_mistakes_about_names_are_told():
    named("toy-geometry")
    with pytest.raises(ValueError, match=r"'toy-geometry' is already registered by .*toy-geometry"):
        named("toy-geometry")
    with pytest.raises(ValueError, match=r"'toy-geometri' .* did you mean 'toy-geometry'"):
        threestudio.find("toy-geometri")
    with pytest.raises(ValueError, match=r"'zzz' .* registered names: toy-geometry"):
        threestudio.find("toy-geometry:zzz")
