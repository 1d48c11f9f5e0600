"""Writes the benchmark's prompts: 16 to make assets of, 153 that R-Precision chooses from, and 16
that settings are chosen with.

    python benchmarks/tiny_prompts.py

Every creature is a combination of species, colours, clothes and belly that is in no other prompt.
The 16 have at least two of hat, backpack and belly, each species in two colours; none of them is a
prompt that settings were chosen with (load/prompts/demo8.json, tinyworld/commands.py), nor a
creature that the Janus meter was trained or calibrated on, nor one that its errors were counted on
(docs/janus.md). The 153 contain them; the others are drawn with the same odds.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.measure import load_host  # noqa: E402

load_host()

from threestudio_jointdreamer.files import replacing  # noqa: E402

from jointdreamer.janus.synthetic import draw_assets, draw_creatures  # noqa: E402
from jointdreamer.tinyworld.captions import caption, parse  # noqa: E402
from jointdreamer.tinyworld.commands import SAMPLE_PROMPTS  # noqa: E402
from jointdreamer.tinyworld.creatures import COLOR_NAMES, Creatures, sample_creatures  # noqa: E402

SEED, TUNING_SEED = 16153, 16
P_HAT, P_BACKPACK = 0.8, 0.7
METER_DRAWS = ((202, 200), (203, 200))  # seeds of the meter's held-out creatures, and how many
FOLDER = ROOT / "load" / "prompts"
Key = tuple[int, int, int, int, bool]  # species, colour, hat, backpack, belly


def key_of(text: str) -> Key:
    return parse(text).rows()[0]


def describe(key: Key) -> str:
    """The creature in words, all of its colours named."""
    return caption(*key, SimpleNamespace(random=lambda: 0.5))  # in the usual order and wording


def is_complex(key: Key) -> bool:
    _, color, hat, backpack, belly = key
    seen = belly and COLOR_NAMES[color] != "white"  # a white belly on a white creature is not
    return (hat >= 0) + (backpack >= 0) + seen >= 2


def taken() -> set[Key]:
    """Creatures that settings were chosen with, or that the meter's errors were counted on."""
    texts = [*SAMPLE_PROMPTS, *json.loads((FOLDER / "demo8.json").read_text())]
    found = {key_of(text) for text in texts}
    for seed, count in METER_DRAWS:
        found |= {asset.creature.rows()[0] for asset in draw_assets(count, "held-out", seed)}
    return found


def draw(
    count: int,
    source: Callable[[int, torch.Generator], Creatures],
    wanted: Callable[[Key, list[Key]], bool],
    seed: int = SEED,
) -> list[Key]:
    """The first `count` different creatures of `source` that are wanted beside those found."""
    generator = torch.Generator().manual_seed(seed)
    found: list[Key] = []
    while len(found) < count:
        for key in source(512, generator).rows():
            if len(found) < count and key not in found and wanted(key, found):
                found.append(key)
    return found


def prompts16(beside: Sequence[str] = (), seed: int = SEED) -> list[str]:
    """Sixteen complex prompts, two of each species, none of them in `beside`."""
    forbidden = taken() | {key_of(text) for text in beside}

    def wanted(key: Key, found: list[Key]) -> bool:
        like = [other for other in found if other[0] == key[0]]
        twice = len(like) >= 2 or any(other[1] == key[1] for other in like)
        return not twice and is_complex(key) and key not in forbidden

    found = draw(16, lambda n, g: draw_creatures(n, "held-out", g), wanted, seed)
    return [describe(key) for key in sorted(found)]


def prompts153(first: list[str]) -> list[str]:
    given = {key_of(text) for text in first}
    others = draw(
        153 - len(first),
        lambda n, g: sample_creatures(n, g, P_HAT, P_BACKPACK),
        lambda key, found: key not in given,
    )
    return [*first, *(describe(key) for key in others)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=FOLDER)
    out = parser.parse_args().out
    few = prompts16()
    tuning = prompts16(few, TUNING_SEED)
    for name, prompts in (("tiny16", few), ("tiny153", prompts153(few)), ("tuning16", tuning)):
        with replacing(out / f"{name}.json") as path:
            path.write_text(json.dumps(prompts, indent=2) + "\n")
        print(out / f"{name}.json")


if __name__ == "__main__":
    main()
