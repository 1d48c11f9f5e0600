"""The four sides that prompts can mention: side, front, back, overhead."""

from typing import Any

import torch

from threestudio.models.prompt_processors.output import DirectionConfig, shift_azimuth_deg

PREFIXES = {
    "side": "side view of",
    "front": "front view of",
    "back": "backside view of",
    "overhead": "overhead view of",
}
SUFFIXES = {
    "side": "side view",
    "front": "front view",
    "back": "back view",
    "overhead": "overhead view",
}


def make_directions(cfg: Any) -> list[DirectionConfig]:
    """The directions in the order in which they claim cameras: later ones win.

    Args:
        cfg: has `view_dependent_prompt_front` (the side named before the prompt or after it),
            and `front_threshold`, `back_threshold`, `overhead_threshold` in degrees.
    """
    conditions = {
        "side": lambda ele, azi, dis: torch.ones_like(ele, dtype=torch.bool),
        "front": lambda ele, azi, dis: (
            (shift_azimuth_deg(azi) > -cfg.front_threshold)
            & (shift_azimuth_deg(azi) < cfg.front_threshold)
        ),
        "back": lambda ele, azi, dis: (
            (shift_azimuth_deg(azi) > 180 - cfg.back_threshold)
            | (shift_azimuth_deg(azi) < -180 + cfg.back_threshold)
        ),
        "overhead": lambda ele, azi, dis: ele > cfg.overhead_threshold,
    }
    return [
        DirectionConfig(
            name=name,
            prompt=_naming(name, cfg.view_dependent_prompt_front),
            negative_prompt=lambda text: text,
            condition=condition,
        )
        for name, condition in conditions.items()
    ]


def _naming(name: str, in_front: bool) -> Any:
    if in_front:
        return lambda text: f"{PREFIXES[name]} {text}"
    return lambda text: f"{text}, {SUFFIXES[name]}"
