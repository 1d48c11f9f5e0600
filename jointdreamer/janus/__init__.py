"""The Janus meter: how many faces an asset has, and where.

views = views_of(Path("outputs/demo/a_blue_cat"))
verdict = judge(views.frames, views.azimuths_deg)
draw_verdict(views.frames, views.azimuths_deg, verdict, "janus.png")
"""

from importlib import import_module

_MODULES = {
    "creatures_of": "scene",
    "draw_verdict": "plot",
    "find_detector": "detectors",
    "judge": "meter",
    "views_of": "views",
}


def __getattr__(name: str) -> object:
    """Imported when asked for: the command line's `--help` needs none of them."""
    if name not in _MODULES:
        raise AttributeError(f"{__name__} has no {name}; it has {', '.join(_MODULES)}.")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
