"""Captions of creatures, and creatures from captions: a small grammar with a fixed vocabulary."""

import random
import re

import torch

from .creatures import COLOR_NAMES, SPECIES, Creatures

FUNCTION_WORDS = ("a", "an", "and", "wearing", "with", "in", "the", "of")
ACCESSORIES = ("hat", "backpack", "belly")
VOCABULARY = (*FUNCTION_WORDS, *COLOR_NAMES, *SPECIES, *ACCESSORIES)


def with_article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def caption(
    species: int, color: int, hat: int, backpack: int, belly: bool, rng: random.Random
) -> str:
    """One English caption; `rng` varies wording and order, and sometimes leaves a colour out."""

    def thing(name: str, paint: int) -> str:
        named = rng.random() < 0.85
        return with_article(f"{COLOR_NAMES[paint]} {name}" if named else name)

    worn = [thing("hat", hat)] if hat >= 0 else []
    worn += [thing("backpack", backpack)] if backpack >= 0 else []
    if rng.random() < 0.3:
        worn.reverse()
    text = with_article(f"{COLOR_NAMES[color]} {SPECIES[species]}")
    patch = " with a white belly" if belly else ""
    clothes = f" {'wearing' if rng.random() < 0.7 else 'with'} {' and '.join(worn)}" if worn else ""
    return text + (patch + clothes if rng.random() < 0.7 else clothes + patch)


def captions(creatures: Creatures, seed: int) -> list[str]:
    """A caption for each creature, deterministic in `seed`."""
    rng = random.Random(seed)
    return [caption(*row, rng) for row in creatures.rows()]


def parse(text: str) -> Creatures:
    """The creature that a caption describes (an accessory without a colour becomes red).

    Raises:
        ValueError: the text names no species or no body colour.
    """
    words = re.findall(r"[a-z]+", text.lower())
    species = [w for w in words if w in SPECIES]
    if len(species) != 1:
        raise ValueError(f"caption {text!r} must name exactly one of {', '.join(SPECIES)}.")

    def color_before(noun: str, default: int) -> int:
        if noun not in words:
            return -1
        previous = words[words.index(noun) - 1]
        return COLOR_NAMES.index(previous) if previous in COLOR_NAMES else default

    color = color_before(species[0], -1)
    if color < 0:
        raise ValueError(f"caption {text!r} must give the {species[0]} one of {COLOR_NAMES}.")
    return Creatures(
        species=torch.tensor([SPECIES.index(species[0])]),
        color=torch.tensor([color]),
        hat=torch.tensor([color_before("hat", 0)]),
        backpack=torch.tensor([color_before("backpack", 0)]),
        belly=torch.tensor(["belly" in words]),
        stretch=torch.zeros(1, 4),
    )
